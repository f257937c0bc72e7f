"""A run that goes on from another run's model: other rows, another schedule, other objectives (ERNIE 5.0, section 5).

    config.start = "runs/pretrain"

Parameters, the routers' bias and the measured use of experts are that model's, and so are the text tokenizer and the
audio codec, since what their ids mean is in the parameters. The visual tokenizer is too, or one of more bits. Steps
begin at 0 and moments are fresh (our choice: they belong to the old schedule), so a warm-up is wanted.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ernie_jax import config as config_lib
from ernie_jax.backbone.vision_io import grow_bits
from ernie_jax.errors import UserError
from ernie_jax.train.experiment import Experiment
from ernie_jax.train.model_io import SavedModel, load_model
from ernie_jax.train.stage_io import first_difference
from ernie_jax.train.state import TrainState

# How a model is run and balanced, not what it is.
_FREE = ("remat", "scan", "attention", "grouped_matmul", "router", "vision")


def load_start(experiment: Experiment) -> SavedModel | None:
  """The model that `config.start` names; None where it names none.

  Raises:
    UserError: it is not there, or is not a model of this config.
  """
  e = experiment
  if not e.start:
    return None
  for key, value in (("text.tokenizer", e.text.tokenizer), ("audio.codec", e.audio.codec)):
    if value:
      raise UserError(f"config.{key} must be empty: it is that of config.start")
  try:
    saved = load_model(e.start)
  except UserError as error:
    raise UserError(f"config.start: {str(error).removeprefix('--workdir: ')}") from error
  as_dict = config_lib.to_dict
  found = first_difference(as_dict(saved.model), as_dict(e.model), "config.model", _FREE)
  if not found and saved.vision is not None and e.model.vision is not None:
    found = first_difference(
      as_dict(saved.model.vision), as_dict(e.model.vision), "config.model.vision", ("bits",)
    )
    old, new = as_dict(saved.vision.config.understand), as_dict(e.vision.understand)
    found = found or first_difference(old, new, "config.vision.understand")
  if found or (saved.vision is None) != (e.model.vision is None):
    found = found or "one of the two models has no vision"
    raise UserError(f"config.start: {e.start} holds another model: {found}")
  if saved.tokenizer is None:
    raise UserError(f"config.start: {e.start} holds a model without a text tokenizer")
  if saved.vision is not None:
    _check_bits(e, saved)
  return saved


def begin_at(start: SavedModel, state: TrainState) -> TrainState:
  """A fresh state with what `start` has learnt, on the devices of `state`."""
  params = start.params
  if start.vision is not None:
    new = state.params["vision"]["input"].shape[-2]
    params = grow_bits(params, start.vision.config.tokenizer.quantizer.bits, new)
  return state.replace(
    params=jax.tree.map(_placed, state.params, params),
    variables=state.variables.replace(
      bias=_placed(state.variables.bias, start.bias),
      usage=_placed(state.variables.usage, start.usage),
    ),
  )


def _placed(like: jax.Array, value: Any) -> jax.Array:
  return jax.device_put(jnp.asarray(value, like.dtype), like.sharding)


def _check_bits(experiment: Experiment, start: SavedModel) -> None:
  old, new = start.model.vision.bits, experiment.model.vision.bits
  if new < old:
    raise UserError(f"config.model.vision.bits can grow from config.start's {old}, not be {new}")
  if (new > old) != bool(experiment.vision.tokenizer):
    want = "name a tokenizer of so many bits" if new > old else "be empty: it is config.start's"
    raise UserError(
      f"config.vision.tokenizer must {want} (config.model.vision.bits is {new}, config.start's {old})"
    )
