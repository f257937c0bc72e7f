"""Muon: momentum made orthogonal, all matrices of a shape in one batch, and each device's part of them on that device.

Letters: M matrices of a shape, I O their sides, I <= O; lead: layers, experts or both.

`optax.contrib.scale_by_muon` does the same up to rounding (a test), one parameter after another and all of them on every
device: of the quickstart's model a seventh of a training step (docs/measurements.md). Sources: Jordan et al. 2024; work
divided among data-parallel devices as in Liu et al. 2025 (arXiv 2502.16982, distributed Muon).

Where parameters themselves are divided (fsdp, expert, tensor), each stays alone, whole in one batch and divided as it is:
joining differently divided ones would move all of them, and a loop over blocks of them would gather each.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int
from optax.contrib import MuonDimensionNumbers

from ernie_jax.kernels.platform import platform
from ernie_jax.sharding.mesh import active_mesh

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024
_EPS = 1e-8  # of the norm: a matrix without gradient stays zero
# Numbers in a block. On one core a block of four 64 x 128 matrices took 0.6 of the time of all 160 at once; elsewhere
# small matrices are many at a time, and of large ones no more is in memory than one's iterations.
_BLOCK_OF_PLATFORM = {"cpu": 1 << 15}
_BLOCK = 1 << 22


class MuonState(NamedTuple):
  """Updates so far, and the momentum of each parameter."""

  count: Int[Array, ""]
  mu: Any


def scale_by_muon(axes: Any, *, iterations: int, momentum: float) -> optax.GradientTransformation:
  """Orthogonal Nesterov momentum, bias-corrected, of every leaf.

  Args:
    axes: updates -> tree like them of `MuonDimensionNumbers`: which axes of a leaf are a matrix; others are `lead`.
    iterations: of Newton and Schulz.
    momentum: its decay.
  """

  def init(params):
    return MuonState(jnp.zeros((), jnp.int32), optax.tree.zeros_like(params))

  def update(updates, state, params=None):
    del params
    mu = optax.tree.update_moment(updates, state.mu, momentum, 1)
    count = optax.safe_increment(state.count)
    ahead = optax.tree.bias_correction(mu, momentum, optax.safe_increment(count))
    now = optax.tree.bias_correction(updates, momentum, count)
    mixed = jax.tree.map(lambda m, g: momentum * m + (1 - momentum) * g, ahead, now)
    return orthogonal(mixed, axes(mixed), iterations=iterations), MuonState(count, mu)

  return optax.GradientTransformation(init, update)


def orthogonal(tree: Any, axes: Any, *, iterations: int) -> Any:
  """Every matrix of every leaf with its singular values brought near 1.

  Args:
    tree: the leaves.
    axes: of the matrices of each leaf, in a tree like it.
    iterations: of Newton and Schulz.
  """
  leaves, structure = jax.tree.flatten(tree)
  kinds = structure.flatten_up_to(axes)
  views = [_View(leaf, kind) for leaf, kind in zip(leaves, kinds, strict=True)]
  matrices = [view.matrices(leaf) for view, leaf in zip(views, leaves)]
  mesh = active_mesh()
  if mesh is None or mesh.shape["data"] == mesh.size:  # every device has all of every parameter
    matrices = _together(matrices, iterations, mesh)
  else:
    matrices = [_newton_schulz(x, iterations) for x in matrices]
  return structure.unflatten([view.leaf(x) for view, x in zip(views, matrices)])


def _together(matrices: list[Array], iterations: int, mesh: Any) -> list[Array]:
  """All of one shape at once, by all devices of a mesh."""
  done, groups = list(matrices), {}
  for i, x in enumerate(matrices):
    groups.setdefault(x.shape[-2:], []).append(i)
  for sides, members in groups.items():
    batches = [matrices[i].reshape(-1, *sides) for i in members]
    run = _in_blocks if mesh is None else functools.partial(_divided, mesh=mesh)
    joined = run(jnp.concatenate(batches), iterations=iterations)
    ends = np.cumsum([len(batch) for batch in batches])[:-1]
    for i, part in zip(members, jnp.split(joined, ends), strict=True):
      done[i] = part.reshape(matrices[i].shape)
  return done


class _View:
  """A leaf as matrices [*lead, I, O] with I <= O, and back."""

  def __init__(self, leaf: Array, kind: MuonDimensionNumbers):
    rows, columns = (tuple(a % leaf.ndim for a in axes) for axes in kind)
    size = lambda axes: math.prod(leaf.shape[a] for a in axes)
    if size(rows) > size(columns):  # f(X) = f(X^T)^T, and the smaller side is squared
      rows, columns = columns, rows
    lead = tuple(a for a in range(leaf.ndim) if a not in (*rows, *columns))
    self._order = lead + rows + columns
    self._shape = tuple(leaf.shape[a] for a in self._order)
    self._matrices = (*self._shape[: len(lead)], size(rows), size(columns))

  def matrices(self, leaf: Array) -> Float[Array, "*lead I O"]:
    return leaf.transpose(self._order).reshape(self._matrices)

  def leaf(self, matrices: Float[Array, "*lead I O"]) -> Array:
    back = sorted(range(len(self._order)), key=self._order.__getitem__)
    return matrices.reshape(self._shape).transpose(back)


def _newton_schulz(x: Float[Array, "*lead I O"], iterations: int) -> Float[Array, "*lead I O"]:
  """Quintic iterations from norm 1."""
  a, b, c = _COEFFICIENTS
  x = x / (jnp.linalg.norm(x, axis=(-2, -1), keepdims=True) + _EPS)
  for _ in range(iterations):
    square = x @ x.mT
    x = a * x + (b * square + c * square @ square) @ x
  return x


def _in_blocks(x: Float[Array, "M I O"], iterations: int) -> Float[Array, "M I O"]:
  """As many matrices at a time as stay in cache."""
  most = _BLOCK_OF_PLATFORM.get(platform(), _BLOCK) // math.prod(x.shape[1:])
  block = min(max(1, most), len(x))
  blocks = _padded(x, block).reshape(-1, block, *x.shape[1:])
  one_block = lambda _, some: (None, _newton_schulz(some, iterations))
  return jax.lax.scan(one_block, None, blocks)[1].reshape(-1, *x.shape[1:])[: len(x)]


def _divided(x: Float[Array, "M I O"], iterations: int, mesh: Any) -> Float[Array, "M I O"]:
  """The same where every device has all of `x`: each makes its part of it, and all get the whole again."""
  part = PartitionSpec(mesh.axis_names)
  everywhere = lambda x: jax.lax.with_sharding_constraint(x, PartitionSpec())
  own = functools.partial(_in_blocks, iterations=iterations)
  # Both are said: else the division spreads to momentum and updates, each of which is then gathered by itself.
  whole = everywhere(_padded(x, mesh.size))
  return everywhere(jax.shard_map(own, mesh=mesh, in_specs=part, out_specs=part)(whole))[: len(x)]


def _padded(x: Float[Array, "M I O"], multiple: int) -> Float[Array, "M I O"]:
  """Zeros at the end, which stay zeros."""
  return jnp.pad(x, ((0, -len(x) % multiple), (0, 0), (0, 0)))
