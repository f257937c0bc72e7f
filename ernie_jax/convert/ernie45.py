"""ERNIE 4.5 text checkpoints to our parameters and back: pure functions on names and arrays.

The mathematics are the same (ERNIE 4.5 report and transformers' modelling code): pre-norm layers, interleaved
rotary pairs, a softmax router whose bias moves selection only, one ungated shared expert, MTP modules
of one dense layer. So a conversion renames, transposes and stacks, and loses no bit: parameters are
float32, which holds every bfloat16 and float16 exactly.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from ernie_jax.backbone.config import ModelConfig
from ernie_jax.convert import hf_config
from ernie_jax.convert.names import EMBEDDING, HEAD, Slot, is_router, slots, tree_shapes
from ernie_jax.errors import UserError

DTYPES = {
  "float32": np.dtype(np.float32),
  "bfloat16": np.dtype(ml_dtypes.bfloat16),
  "float16": np.dtype(np.float16),
}


@dataclasses.dataclass(frozen=True)
class Precision:
  """In which type each tensor is stored.

  Attributes:
    dtype: of all tensors but the routers', which are float32 as transformers keeps them.
    exceptions: tensor name -> dtype where a checkpoint departs from that rule.
  """

  dtype: str = "float32"
  exceptions: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def of(self, name: str) -> str:
    """The type of the tensor `name`."""
    return self.exceptions.get(name, "float32" if is_router(name) else self.dtype)


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
  if wanted - names:
    raise _names_error("has no tensor", wanted - names)
  unexpected = names - wanted - {HEAD}
  if unexpected:
    raise _names_error("has an unexpected tensor", unexpected)
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
  shapes = tree_shapes(model)
  tree = _map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
  found = {}
  for slot in progress(list(slots(model))):
    part = _leaf(tree, slot.path)[slot.index]
    tensor = tensors[slot.name]
    found[slot.name] = _check(slot.name, tensor, slot.disk_shape(part.shape))
    part[...] = slot.to_ours(tensor, part.shape)
  # Some tools write the head although it is tied; equal values say that it may be dropped.
  written = model.tie_embeddings and HEAD in tensors
  if written and not np.array_equal(tensors[HEAD], tensors[EMBEDDING]):
    raise UserError(f"config.json: tie_word_embeddings is true, but {HEAD} is not {EMBEDDING}")
  rule = Precision(dtype=found[EMBEDDING])
  exceptions = {name: dtype for name, dtype in found.items() if dtype != rule.of(name)}
  precision = dataclasses.replace(rule, exceptions=exceptions)
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
  return Exported(config=config, tensors=_Tensors(model, tree, precision))


class _Tensors(Mapping):
  """The checkpoint's tensors by name, each made from the tree when it is asked for."""

  def __init__(self, model: ModelConfig, tree: Mapping[str, Any], precision: Precision):
    self._slots = {slot.name: slot for slot in slots(model)}
    self._tree, self._precision = tree, precision

  def __getitem__(self, name: str) -> np.ndarray:
    slot = self._slots[name]
    part = np.asarray(_leaf(self._tree, slot.path)[slot.index])
    return slot.to_disk(part).astype(DTYPES[self._precision.of(name)], copy=False)

  def __iter__(self) -> Iterator[str]:
    return iter(self._slots)

  def __len__(self) -> int:
    return len(self._slots)


def _check(name: str, tensor: np.ndarray, shape: tuple[int, ...]) -> str:
  """The name of the tensor's type, once its shape and type are as they must be."""
  if tensor.shape != shape:
    raise UserError(
      f"tensor {name} has shape {list(tensor.shape)}; config.json asks for {list(shape)}"
    )
  dtype = tensor.dtype.name
  if dtype not in DTYPES:
    raise UserError(f"tensor {name} is {dtype}; only {', '.join(DTYPES)} are supported")
  return dtype


def _names_error(what: str, names: set[str]) -> UserError:
  more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
  return UserError(f"the checkpoint {what} {min(names)}{more}")


def _leaf(tree: Mapping[str, Any], path: tuple[str, ...]) -> Any:
  return functools.reduce(lambda node, key: node[key], path, tree)


def _map(f: Callable[[Any], Any], tree: Any) -> Any:
  return {k: _map(f, v) for k, v in tree.items()} if isinstance(tree, Mapping) else f(tree)
