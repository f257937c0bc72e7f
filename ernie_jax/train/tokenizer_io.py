"""A trained visual tokenizer on disk: what the unified model's training and generation start from.

A workdir holds `config.json` (with the key `tokenizer`) and `checkpoints/STEP`, whose parameters have the
tokenizer beside what only trained it.
"""

import dataclasses
import pathlib
from typing import Any

from ernie_jax import config as config_lib
from ernie_jax.train import checkpoint
from ernie_jax.train.stage_io import chosen_step, read_stage_config
from ernie_jax.vision.tokenizer import TokenizerConfig

_WHAT = "visual tokenizer"


@dataclasses.dataclass
class SavedTokenizer:
  """A tokenizer with all that is needed to run it.

  Attributes:
    values: the experiment's config as a plain dict.
    config: the tokenizer's, built and checked.
    params: nested dicts of NumPy arrays, as `VisualTokenizer` takes them.
    step: the training step it was saved at.
  """

  values: dict[str, Any]
  config: TokenizerConfig
  params: Any
  step: int


def read_tokenizer_config(workdir: str | pathlib.Path) -> dict[str, Any]:
  """The experiment's config of a tokenizer's workdir.

  Raises:
    UserError: there is none, or it is not a tokenizer's.
  """
  return read_stage_config(workdir, key="tokenizer", what=_WHAT)


def load_tokenizer(workdir: str | pathlib.Path, *, step: int | None = None) -> SavedTokenizer:
  """Reads the newest checkpoint of a tokenizer's workdir, or that of `step`, into host memory.

  Raises:
    UserError: no tokenizer there, or no such step.
  """
  values = read_tokenizer_config(workdir)
  step = chosen_step(workdir, step, what=_WHAT)
  folder = pathlib.Path(workdir) / "checkpoints"
  return SavedTokenizer(
    values=values,
    config=config_lib.build(TokenizerConfig, values["tokenizer"], path="config.tokenizer"),
    params=checkpoint.load_params(folder, step, subtree="params/tokenizer"),
    step=step,
  )
