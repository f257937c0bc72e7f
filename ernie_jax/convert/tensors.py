"""What every conversion does with tensors once a table of `Slot`s says where each belongs."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from ernie_jax.convert.names import Slot, is_router
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


class StoredTensors(Mapping):
  """A checkpoint's tensors by name, each made from our tree when it is asked for."""

  def __init__(self, slots: Iterable[Slot], tree: Mapping[str, Any], precision: Precision):
    self._slots = {slot.name: slot for slot in slots}
    self._tree, self._precision = tree, precision

  def __getitem__(self, name: str) -> np.ndarray:
    slot = self._slots[name]
    part = np.asarray(_leaf(self._tree, slot.path)[slot.index])
    return slot.to_disk(part).astype(DTYPES[self._precision.of(name)], copy=False)

  def __iter__(self) -> Iterator[str]:
    return iter(self._slots)

  def __len__(self) -> int:
    return len(self._slots)


def check_names(wanted: set[str], present: set[str], *, allowed: Callable[[str], bool]) -> None:
  """Raises UserError when a wanted tensor is absent, or another is present and not `allowed`."""
  unexpected = {name for name in present - wanted if not allowed(name)}
  for what, names in (("no", wanted - present), ("an unexpected", unexpected)):
    if names:
      more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
      raise UserError(f"the checkpoint has {what} tensor {min(names)}{more}")


def read_tree(
  shapes: Mapping[str, Any],
  slots: Sequence[Slot],
  tensors: Mapping[str, np.ndarray],
  *,
  typical: str,
  progress: Callable[[Sequence[Slot]], Iterable[Slot]] = iter,
) -> tuple[dict[str, Any], Precision]:
  """Fills a tree of float32 arrays, zero where no slot points, and says in what types it was stored.

  Args:
    shapes: the tree, with shapes in place of arrays.
    slots: where each tensor belongs; each is read once.
    typical: the tensor whose type is that of the checkpoint.

  Raises:
    UserError: a tensor of another shape than the tree's, or of a type that is no float.
  """
  tree = _map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
  found = {}
  for slot in progress(slots):
    part = _leaf(tree, slot.path)[slot.index]
    tensor = tensors[slot.name]
    found[slot.name] = _check(slot.name, tensor, slot.disk_shape(part.shape))
    part[...] = slot.to_ours(tensor, part.shape)
  rule = Precision(dtype=found[typical])
  exceptions = {name: dtype for name, dtype in found.items() if dtype != rule.of(name)}
  return tree, dataclasses.replace(rule, exceptions=exceptions)


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


def _leaf(tree: Mapping[str, Any], path: tuple[str, ...]) -> Any:
  return functools.reduce(lambda node, key: node[key], path, tree)


def _map(f: Callable[[Any], Any], tree: Any) -> Any:
  return {k: _map(f, v) for k, v in tree.items()} if isinstance(tree, Mapping) else f(tree)
