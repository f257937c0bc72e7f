"""A trained codec on disk: what the unified model's training and generation start from.

A workdir holds `config.json` (with the key `codec`) and `checkpoints/STEP`: parameters of the codec beside
what only trained it, and the codebooks among the variables.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Float

from ernie_jax import config as config_lib
from ernie_jax.audio.codec import CodecConfig
from ernie_jax.audio.quantizer import Codebooks
from ernie_jax.train import checkpoint
from ernie_jax.train.stage_io import chosen_step, read_stage_config

_WHAT = "audio codec"


@dataclasses.dataclass
class SavedCodec:
  """A codec with all that is needed to run it, or to train it on.

  Attributes:
    values: the experiment's config as a plain dict.
    config: the codec's, built and checked.
    params: nested dicts of NumPy arrays, as `Codec` takes them.
    codebooks: their whole state.
    step: the training step it was saved at.
  """

  values: dict[str, Any]
  config: CodecConfig
  params: Any
  codebooks: Codebooks
  step: int

  @property
  def vectors(self) -> Float[np.ndarray, "R V D"]:
    """The codes, as `quantize` and `total_from_codes` take them."""
    return self.codebooks.vectors


def read_codec_config(workdir: str | pathlib.Path) -> dict[str, Any]:
  """The experiment's config of a codec's workdir.

  Raises:
    UserError: there is none, or it is not a codec's.
  """
  return read_stage_config(workdir, key="codec", what=_WHAT)


def load_codec(workdir: str | pathlib.Path, *, step: int | None = None) -> SavedCodec:
  """Reads the newest checkpoint of a codec's workdir, or that of `step`, into host memory.

  Raises:
    UserError: no codec there, or no such step.
  """
  values = read_codec_config(workdir)
  step = chosen_step(workdir, step, what=_WHAT)
  folder = pathlib.Path(workdir) / "checkpoints"
  return SavedCodec(
    values=values,
    config=config_lib.build(CodecConfig, values["codec"], path="config.codec"),
    params=checkpoint.load_params(folder, step, subtree="params/codec"),
    codebooks=Codebooks(**checkpoint.load_params(folder, step, subtree="variables")),
    step=step,
  )
