"""One table says which mesh axes divide each logical axis; everything here reads that table.

Models name axes by meaning ("embed", "heads"); the table maps meanings to the mesh. Linen fails
silently in four ways, and each has its guard here: no mesh or no rules (`enter` sets both), a
misspelled logical name (every name is checked), rules missing from the jit cache key (there is one
table and it never changes), and, ours to add, an axis that does not divide: XLA replicates it without
a word, we raise.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from ernie_jax.errors import UserError
from ernie_jax.sharding.mesh import BATCH_AXES, MeshConfig, active_mesh, entered_config

Axes = tuple[str, ...]

RULES: Mapping[str, Axes | None] = {
  # Parameters.
  "layers": None,  # the scan walks over it
  "embed": ("fsdp",),
  "vocab": ("tensor",),
  "heads": ("tensor",),
  "kv_heads": ("tensor",),
  "head_dim": None,
  "mlp": ("tensor",),
  "experts": ("expert",),
  "expert_mlp": ("tensor",),
  "router_experts": None,  # every device routes its own tokens over all experts
  "norm": None,
  "bits": None,
  "elements": None,
  "levels": None,
  "codes": None,
  "voice": None,
  # Activations.
  "batch": BATCH_AXES,
  "length": ("context",),
  "act_embed": None,
  "act_heads": ("tensor",),
  "act_vocab": ("tensor",),
}

# A larger array without axis names is a mistake: it would be copied to every device.
LARGEST_UNNAMED_BYTES = 1 << 20


@contextlib.contextmanager
def enter(mesh: Mesh | None, config: MeshConfig | None = None) -> Iterator[None]:
  """Enters `mesh`, the rules and the expert transport together, so that none can be forgotten.

  None, or a mesh of one device, enters nothing: the program is then that of a single device.

  Args:
    mesh: from `make_mesh`.
    config: its config, for the expert transport; the default one if not given.
  """
  if mesh is None or mesh.size == 1:
    yield
    return
  with (
    jax.set_mesh(mesh),
    nn.logical_axis_rules(tuple(RULES.items())),
    entered_config(config or MeshConfig()),
  ):
    yield


def spec(names: Sequence[str | None]) -> PartitionSpec:
  """The PartitionSpec of an array whose axes have these logical names (None: not divided).

  Raises:
    ValueError: an unknown name, or two axes that want the same mesh axis.
  """
  parts = [_mesh_axes(name) for name in names]
  used = [axis for part in parts for axis in part]
  if len(set(used)) != len(used):
    raise ValueError(f"logical axes {tuple(names)} use a mesh axis twice: {used}")
  return PartitionSpec(*(None if not p else p[0] if len(p) == 1 else p for p in parts))


def logical_constraint(x: jax.Array, names: Sequence[str | None]) -> jax.Array:
  """Asks for activation `x` to be divided as its logical axes say; the identity without a mesh.

  An axis of length 1 (a single row, or the one position that a decoder adds) stays whole.

  Raises:
    ValueError: an unknown name (even without a mesh), or not one name for each axis.
    UserError: a length that the mesh does not divide.
  """
  if len(names) != x.ndim:
    raise ValueError(f"{tuple(names)} names {len(names)} axes of an array of shape {x.shape}")
  wanted = spec(names)
  mesh = active_mesh()
  if mesh is None:
    return x
  kept = [None if size == 1 else part for size, part in zip(x.shape, wanted)]
  for name, size, part in zip(names, x.shape, kept):
    _check_divides(mesh, f"the {name} axis", size, part)
  return jax.lax.with_sharding_constraint(x, PartitionSpec(*kept))


def param_shardings(boxed: Any, mesh: Mesh) -> Any:
  """A tree of NamedSharding for parameters (or a whole train state) that Linen has boxed.

  Args:
    boxed: what `jax.eval_shape` gives of `init` (or of building the state): shapes, those with
      logical names boxed by `nn.with_logical_partitioning`. Optimizer moments keep the boxes.
    mesh: where the arrays will live.

  Returns:
    The same tree without boxes, one NamedSharding a leaf. Small arrays without names are replicated.

  Raises:
    ValueError: an unknown logical name, a wrong number of names, a large array without names.
    UserError: a length that the mesh does not divide.
  """

  def one(path: Any, leaf: Any) -> NamedSharding:
    where = f"parameter {jax.tree_util.keystr(path, simple=True, separator='/')}"
    if not isinstance(leaf, nn.Partitioned):
      if math.prod(leaf.shape) * _item_bytes(leaf.dtype) > LARGEST_UNNAMED_BYTES:
        raise ValueError(f"{where} has shape {leaf.shape} but no logical axis names")
      return NamedSharding(mesh, PartitionSpec())
    names, shape = leaf.names, leaf.value.shape
    if len(names) != len(shape):
      raise ValueError(f"{where} has axes {names} but shape {shape}")
    parts = spec(names)
    for name, size, part in zip(names, shape, parts):
      _check_divides(mesh, f"{where}: the {name} axis", size, part)
    return NamedSharding(mesh, parts)

  is_box = lambda leaf: isinstance(leaf, nn.Partitioned)
  return jax.tree_util.tree_map_with_path(one, boxed, is_leaf=is_box)


def validate_model(mesh: Mesh, sizes: Mapping[str, tuple[str, int]]) -> None:
  """Checks a model's sizes against the mesh before anything is built.

  Args:
    mesh: the mesh.
    sizes: config key -> (logical axis, size), such as {"config.model.kv_heads": ("kv_heads", 2)}.
      Pass head *counts*: the fused heads*head_dim of a kernel may divide where the heads do not.

  Raises:
    UserError: naming both keys.
  """
  for key, (name, size) in sizes.items():
    axes = _mesh_axes(name)
    _check_divides(mesh, key, size, axes)


def _mesh_axes(name: str | None) -> Axes:
  if name is None:
    return ()
  if name not in RULES:
    raise ValueError(f"unknown logical axis {name!r}; known: {', '.join(RULES)}")
  return RULES[name] or ()


def _check_divides(
  mesh: Mesh | AbstractMesh, what: str, size: int, part: str | Axes | None
) -> None:
  axes = (part,) if isinstance(part, str) else part or ()
  count = math.prod(mesh.shape[a] for a in axes)
  if size % count:
    keys = " * ".join(f"config.mesh.{a}={mesh.shape[a]}" for a in axes if mesh.shape[a] > 1)
    raise UserError(f"{what} = {size} does not divide by {keys}")


def _item_bytes(dtype: Any) -> int:
  """Typed random keys have no NumPy item size; they are tiny."""
  return 16 if jax.dtypes.issubdtype(dtype, jax.dtypes.extended) else np.dtype(dtype).itemsize
