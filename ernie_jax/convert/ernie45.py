"""ERNIE 4.5 text checkpoints to our parameters and back: pure functions on names and arrays.

The mathematics are the same (ERNIE 4.5 report and transformers' modelling code): pre-norm layers, interleaved
rotary pairs, a softmax router whose bias moves selection only, one ungated shared expert, MTP modules
of one dense layer. So a conversion renames, transposes and stacks, and loses no bit: parameters are
float32, which holds every bfloat16 and float16 exactly.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ernie_jax.backbone.config import ModelConfig
from ernie_jax.convert import hf_config
from ernie_jax.convert.names import EMBEDDING, HEAD, Slot, slots, tree_shapes
from ernie_jax.convert.tensors import Precision, StoredTensors, check_names, read_tree
from ernie_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Imported:
  """A checkpoint as we hold it.

  Attributes:
    model: its config.
    params: nested dicts of float32 NumPy arrays, as `UnifiedModel` takes them.
    bias: float32 [N, E], the routers' bias; zeros for dense layers.
    precision: the types it was stored in.
  """

  model: ModelConfig
  params: dict[str, Any]
  bias: np.ndarray
  precision: Precision


@dataclasses.dataclass(frozen=True)
class Exported:
  """A model as a checkpoint: `config` is config.json; `tensors` makes each tensor when asked."""

  config: dict[str, Any]
  tensors: Mapping[str, np.ndarray]


def read_model(config: Mapping[str, Any], names: Iterable[str]) -> ModelConfig:
  """The model of a checkpoint, from its config.json and the names of its tensors.

  Raises:
    UserError: a config we do not implement, a tensor that is absent, or one too many.
  """
  names = set(names)
  mtp_depth = sum(f"model.mtp_emb_norm.{m}.weight" in names for m in range(len(names)))
  model = hf_config.to_model(config, mtp_depth=mtp_depth)
  wanted = {slot.name for slot in slots(model)}
  check_names(wanted, names, allowed=lambda name: name == HEAD)
  return model


def from_hf(
  config: Mapping[str, Any],
  tensors: Mapping[str, np.ndarray],
  *,
  progress: Callable[[list[Slot]], Iterable[Slot]] = iter,
) -> Imported:
  """Imports a checkpoint.

  Args:
    config: the parsed config.json.
    tensors: by their names on disk; each is read once, so the mapping may read files lazily.
    progress: wraps the list of tensors, for a progress bar.

  Raises:
    UserError: see `read_model`; or a tensor of another shape or type than its config says.
  """
  model = read_model(config, tensors)
  table = list(slots(model))
  tree, precision = read_tree(
    tree_shapes(model), table, tensors, typical=EMBEDDING, progress=progress
  )
  # Some tools write the head although it is tied; equal values say that it may be dropped.
  written = model.tie_embeddings and HEAD in tensors
  if written and not np.array_equal(tensors[HEAD], tensors[EMBEDDING]):
    raise UserError(f"config.json: tie_word_embeddings is true, but {HEAD} is not {EMBEDDING}")
  return Imported(model=model, params=tree["params"], bias=tree["bias"], precision=precision)


def to_hf(
  model: ModelConfig,
  params: Mapping[str, Any],
  bias: np.ndarray,
  *,
  precision: Precision | None = None,
  base: Mapping[str, Any] | None = None,
) -> Exported:
  """Exports a model; `from_hf` of the result gives the same arrays, bit for bit.

  Args:
    precision: types to store; None for float32.
    base: the config.json that the model was imported with, whose other keys are kept.

  Raises:
    UserError: the model has a part that ERNIE 4.5 lacks.
  """
  precision = precision or Precision()
  config = hf_config.to_json(model, dtype=precision.dtype, base=base)
  tree = {"params": params, "bias": bias}
  return Exported(config=config, tensors=StoredTensors(slots(model), tree, precision))
