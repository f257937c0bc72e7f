"""A trained visual tokenizer on disk: what the unified model's training and generation start from.

A workdir holds `config.json` (with the key `tokenizer`) and `checkpoints/STEP`, whose parameters have the
tokenizer beside what only trained it.
"""

import dataclasses
import json
import pathlib
from typing import Any

from ernie_jax import config as config_lib
from ernie_jax.errors import UserError
from ernie_jax.train import checkpoint
from ernie_jax.vision.tokenizer import TokenizerConfig


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
  path = pathlib.Path(workdir) / "config.json"
  try:
    values = json.loads(path.read_text())
  except FileNotFoundError as e:
    raise UserError(f"no visual tokenizer in {workdir} (there is no {path.name})") from e
  except (OSError, ValueError) as e:
    raise UserError(f"cannot read {path}: {e}") from e
  if not isinstance(values, dict) or "tokenizer" not in values:
    raise UserError(f"{workdir} holds no visual tokenizer (its config has no key tokenizer)")
  return values


def load_tokenizer(workdir: str | pathlib.Path, *, step: int | None = None) -> SavedTokenizer:
  """Reads the newest checkpoint of a tokenizer's workdir, or that of `step`, into host memory.

  Raises:
    UserError: no tokenizer there, or no such step.
  """
  values = read_tokenizer_config(workdir)
  folder = pathlib.Path(workdir) / "checkpoints"
  known = checkpoint.steps(folder)
  if not known:
    raise UserError(f"{workdir} has no complete checkpoint of a visual tokenizer yet")
  step = known[-1] if step is None else step
  if step not in known:
    raise UserError(f"no checkpoint of step {step} in {workdir}; there are {known}")
  return SavedTokenizer(
    values=values,
    config=config_lib.build(TokenizerConfig, values["tokenizer"], path="config.tokenizer"),
    params=checkpoint.load_params(folder, step, subtree="params/tokenizer"),
    step=step,
  )
