"""Expert parallelism: how tokens reach the devices that hold their experts, and come back.

The experts are written for one device (`local_fn`); `deliver` runs them under a mesh, with the
expert pool divided over the expert axis and each expert's width over the tensor axis. Two transports,
equal in value, neither of which ever drops a token:

* ring: gather everybody's tokens, run the experts that live here, sum-scatter the results. Volume
  grows with the number of devices, not with k: right for large k over few devices.
* all_to_all: send each assignment to the one device that holds its expert. Buffers have a fixed size;
  where a router is so unbalanced that one overflows, on any device, the whole layer takes the ring.

Letters: B batch rows, L positions, T tokens of one device, D model width, K experts chosen per token,
E experts, n devices along the expert axis, C capacity: assignments that one device can send another.

Gotcha: everything inside is manual (`shard_map` over all axes), because grouped-matmul kernels know
nothing of meshes. Parameters whose width is divided over fsdp are gathered inside, so that the
transpose is a reduce-scatter and no device ever holds a whole gradient.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from ernie_jax.backbone.dispatch import Dispatch, combine, gather
from ernie_jax.errors import UserError
from ernie_jax.sharding import rules
from ernie_jax.sharding.mesh import BATCH_AXES, active_config, active_mesh

# (x_TD, experts_TK, gates_TK, live_TK, weights) -> out_TD, over the experts of `weights`. It must
# ignore what is not live, and be linear in the last matmul, whose width the tensor axis may divide.
LocalExperts = Callable[[Array, Array, Array, Array, Any], Array]

TOKENS = PartitionSpec(BATCH_AXES, "context", None)

# Logical axes of the stacked kernels of SwiGLU experts.
EXPERT_AXES = {
  "gate": ("experts", "embed", "expert_mlp"),
  "up": ("experts", "embed", "expert_mlp"),
  "down": ("experts", "expert_mlp", "embed"),
}


@flax.struct.dataclass
class Delivered:
  """What `deliver` returns.

  Attributes:
    out: [B, L, D], the gated sum of each token's live experts; 0 where none is live.
    overflowed: float32 scalar, 1 if all_to_all had to take the ring, else 0. A statistic.
  """

  out: Float[Array, "B L D"]
  overflowed: Float[Array, ""]


def deliver(
  x: Float[Array, "B L D"],
  experts: Int[Array, "B L K"],
  gates: Float[Array, "B L K"],
  live: Bool[Array, "B L K"],
  weights: Any,
  *,
  local_fn: LocalExperts,
  weight_axes: Any = EXPERT_AXES,
) -> Delivered:
  """Runs each token's experts, wherever they live, by the transport given to `rules.enter`.

  Without a mesh this is `local_fn` on the flattened tokens. What is not live may hold anything, NaN
  included, in `x`, `gates` and `experts`: neither values nor gradients see it.

  Args:
    x: tokens.
    experts: ids of the chosen experts, 0 to E - 1.
    gates: their weights.
    live: which choices count.
    weights: a pytree of arrays, each with a leading expert axis.
    local_fn: the experts of one device, see `LocalExperts`.
    weight_axes: the structure of `weights` with a tuple of logical names at each leaf.

  Raises:
    UserError: the expert axis does not divide the experts.
  """
  x = jnp.where(live.any(-1, keepdims=True), x, 0)
  gates = jnp.where(live, gates, 0)
  experts = jnp.where(live, experts, 0)
  mesh = active_mesh()
  if mesh is None:
    tokens = [a.reshape(-1, a.shape[-1]) for a in (x, experts, gates, live)]
    return Delivered(local_fn(*tokens, weights).reshape(x.shape), jnp.zeros((), jnp.float32))

  specs = jax.tree.map(lambda _, names: rules.spec(names), weights, weight_axes)
  n_experts = jax.tree.leaves(weights)[0].shape[0]
  if n_experts % mesh.shape["expert"]:
    raise UserError(
      f"config.mesh.expert={mesh.shape['expert']} does not divide the {n_experts} experts"
    )
  body = functools.partial(_on_device, mesh=mesh, specs=specs, local_fn=local_fn)
  rows, positions = x.shape[:2]
  run = jax.shard_map(
    body,
    in_specs=(TOKENS, TOKENS, TOKENS, TOKENS, specs),
    out_specs=(TOKENS, PartitionSpec()),
    check_vma=False,  # `local_fn` is written for one device: its scans start from plain zeros
  )
  out, overflowed = run(*(_pad(a, mesh) for a in (x, experts, gates, live)), weights)
  return Delivered(out[:rows, :positions], overflowed)


def on_own_tokens(function: Callable[[Array], Array], x: Float[Array, "B L _"]) -> Array:
  """`function(x)`, an array [B, L, _] each of whose tokens follows from its own, by each device for its own.

  For what XLA's partitioner divides by no axis: it would gather `x` of all devices on each (`top_k`).
  """
  mesh = active_mesh()
  if mesh is None:
    return function(x)
  run = jax.shard_map(function, in_specs=TOKENS, out_specs=TOKENS, check_vma=False)
  return run(_pad(x, mesh))[: x.shape[0], : x.shape[1]]


def _pad(a: Array, mesh: AbstractMesh) -> Array:
  """Adds dead rows and positions until the mesh divides them (a decoder has one row)."""
  rows = -a.shape[0] % math.prod(mesh.shape[axis] for axis in BATCH_AXES)
  positions = -a.shape[1] % mesh.shape["context"]
  return jnp.pad(a, ((0, rows), (0, positions), (0, 0))) if rows or positions else a


def _on_device(
  x: Array,
  experts: Array,
  gates: Array,
  live: Array,
  weights: Any,
  *,
  mesh: AbstractMesh,
  specs: Any,
  local_fn: LocalExperts,
) -> tuple[Array, Array]:
  """One device's share: [b, l, ..] of the tokens, E / n experts. Returns [b, l, D], overflowed."""
  weights = jax.tree.map(functools.partial(_gather_width, mesh=mesh), weights, specs)
  tokens = [a.reshape(-1, a.shape[-1]) for a in (x, experts, gates, live)]
  overflowed = jnp.zeros((), jnp.float32)
  if mesh.shape["expert"] == 1:
    out = local_fn(*tokens, weights)
  elif active_config().transport == "ring":
    out = _ring(*tokens, weights, local_fn=local_fn)
  else:
    out, overflowed = _all_to_all_or_ring(*tokens, weights, local_fn=local_fn, mesh=mesh)
  if mesh.shape["tensor"] > 1:
    out = jax.lax.psum(out, "tensor")
  return out.reshape(x.shape), overflowed


def _gather_width(w: Array, spec: PartitionSpec, *, mesh: AbstractMesh) -> Array:
  """Makes the model width of a weight whole (it is divided over fsdp while at rest)."""
  for axis, part in enumerate(spec):
    if part not in (None, "expert", "tensor") and mesh.shape[part] > 1:
      w = jax.lax.all_gather(w, part, axis=axis, tiled=True)
  return w


def _ring(
  x: Float[Array, "T D"],
  experts: Int[Array, "T K"],
  gates: Float[Array, "T K"],
  live: Bool[Array, "T K"],
  weights: Any,
  *,
  local_fn: LocalExperts,
) -> Float[Array, "T D"]:
  """Every device sees the tokens of all n, and answers for its own experts."""
  collect = lambda a: jax.lax.all_gather(a, "expert", tiled=True)
  n_local = jax.tree.leaves(weights)[0].shape[0]
  # One gather fewer: a dead choice travels as expert -1.
  ids = collect(jnp.where(live, experts, -1)) - jax.lax.axis_index("expert") * n_local
  here = (ids >= 0) & (ids < n_local)  # never true for -1: it is negative on every device
  out = local_fn(collect(x), jnp.where(here, ids, 0), collect(gates), here, weights)
  return jax.lax.psum_scatter(out, "expert", scatter_dimension=0, tiled=True)


def _all_to_all_or_ring(
  x: Array,
  experts: Array,
  gates: Array,
  live: Array,
  weights: Any,
  *,
  local_fn: LocalExperts,
  mesh: AbstractMesh,
) -> tuple[Float[Array, "T D"], Float[Array, ""]]:
  """all_to_all where its buffers suffice on every device, else the ring; and whether they did not."""
  n = mesh.shape["expert"]
  n_local = jax.tree.leaves(weights)[0].shape[0]
  n_tokens, k = experts.shape
  most = n_tokens * k
  capacity = min(most, 8 * math.ceil(active_config().capacity_factor * n_tokens * k / n / 8))
  counts = jnp.where(live, experts // n_local, n).reshape(-1)
  counts = jnp.zeros(n, jnp.int32).at[counts].add(1, mode="drop")
  direct = functools.partial(_all_to_all, capacity=capacity, n=n, local_fn=local_fn)
  if capacity == most:
    return direct(x, experts, gates, live, weights), jnp.zeros((), jnp.float32)
  # All devices of the mesh must take the same branch: they meet in its collectives.
  overflowed = jax.lax.pmax((counts > capacity).any().astype(jnp.int32), mesh.axis_names)
  # The ring keeps nothing for its backward pass, or each step would pay for the branch not taken.
  fallback = jax.checkpoint(functools.partial(_ring, local_fn=local_fn))
  out = jax.lax.cond(overflowed > 0, fallback, direct, x, experts, gates, live, weights)
  return out, overflowed.astype(jnp.float32)


def _all_to_all(
  x: Float[Array, "T D"],
  experts: Int[Array, "T K"],
  gates: Float[Array, "T K"],
  live: Bool[Array, "T K"],
  weights: Any,
  *,
  capacity: int,
  n: int,
  local_fn: LocalExperts,
) -> Float[Array, "T D"]:
  """Sends each assignment to its expert's device, C slots for each; gates are applied on return.

  Each *assignment* travels, not each token once per device: a slot then has one expert, so that the
  experts' buffers are K times smaller, and for n well above K hardly any two choices share a device.
  """
  n_local = jax.tree.leaves(weights)[0].shape[0]
  device = jnp.where(live, experts // n_local, n).reshape(-1)  # [T*K], n: goes nowhere
  onto = device[:, None] == jnp.arange(n)  # [T*K, n]
  nth = (jnp.cumsum(onto, axis=0, dtype=jnp.int32) * onto).sum(1)  # counted from 1
  slot = jnp.where(device < n, device * capacity + nth - 1, n * capacity)
  # The inverse: which assignment fills a slot; past the end where none does.
  assignment = jnp.full(n * capacity, device.size, jnp.int32)
  assignment = assignment.at[slot].set(jnp.arange(device.size, dtype=jnp.int32), mode="drop")
  dispatch = Dispatch(assignment, slot.reshape(experts.shape), onto.sum(0))

  send = lambda a: jax.lax.all_to_all(a, "expert", 0, 0, tiled=True)
  x_there = send(gather(x, dispatch))
  ids = (experts % n_local).reshape(-1)
  ids_there = send(ids.at[assignment].get(mode="fill", fill_value=-1))[:, None]
  there = ids_there >= 0
  ones = jnp.ones(ids_there.shape, gates.dtype)
  out_there = local_fn(x_there, jnp.where(there, ids_there, 0), ones, there, weights)
  return combine(send(out_there), gates, dispatch)
