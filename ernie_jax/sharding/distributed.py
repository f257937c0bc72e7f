"""Several processes, one program: joining them, and moving batches in and values out.

Every process runs the same code over the same mesh. Each reads only its own part of the batch
(`host_slice` says which), `host_batch_to_global` joins the parts without copying them between
processes, and `fetch` brings a value back to every host.
"""

import dataclasses
import os
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ernie_jax.errors import UserError
from ernie_jax.sharding.mesh import BATCH_AXES


def initialize(
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
) -> None:
  """Joins the other processes, if there are any; call it before anything touches a device.

  What is not given is read from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. A
  coordinator of "auto" asks the cluster (Cloud TPU, GKE, Slurm) for all three. Without a coordinator
  this is a run of one process.

  Raises:
    UserError: a coordinator without the number or the index of processes, or numbers that cannot be.
  """
  coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
  if not coordinator:
    return
  # Between CPU processes collectives go over TCP; accelerators take no notice.
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  if coordinator == "auto":
    # JAX would read the word itself as an address.
    os.environ.pop("JAX_COORDINATOR_ADDRESS", None)
    jax.distributed.initialize()
    return
  count = _number("num_processes", num_processes, "JAX_NUM_PROCESSES")
  index = _number("process_id", process_id, "JAX_PROCESS_ID")
  if not 0 <= index < count:
    raise UserError(f"process_id={index} must be at least 0 and below num_processes={count}")
  jax.distributed.initialize(coordinator, count, index)


@dataclasses.dataclass(frozen=True)
class HostSlice:
  """Which part of every global batch this process reads: part `index` of `count` equal ones."""

  index: int
  count: int


def batch_sharding(mesh: Mesh, batch_axis: int = 0) -> NamedSharding:
  """Rows divided over the batch axes; everything else of a batch is whole."""
  return NamedSharding(mesh, PartitionSpec(*(None,) * batch_axis, BATCH_AXES))


def host_slice(mesh: Mesh) -> HostSlice:
  """The part of the global batch that this process must read.

  Processes that only share tensor or context parallel work read the same part.

  Raises:
    UserError: the mesh gives processes parts that overlap only partly.
  """
  shards = int(np.prod([mesh.shape[a] for a in BATCH_AXES]))
  parts: dict[int, set[int]] = {}
  for device, (rows,) in batch_sharding(mesh).devices_indices_map((shards,)).items():
    start, stop, _ = rows.indices(shards)
    parts.setdefault(device.process_index, set()).update(range(start, stop))
  mine = parts[jax.process_index()]
  same = all(part == mine or not part & mine for part in parts.values())
  if not same or shards % len(mine) or min(mine) % len(mine) or max(mine) - min(mine) >= len(mine):
    keys = " * ".join(f"config.mesh.{a}={mesh.shape[a]}" for a in BATCH_AXES)
    raise UserError(f"{keys} does not give each process an equal, whole part of the batch")
  return HostSlice(min(mine) // len(mine), shards // len(mine))


def host_batch_to_global(batch: Any, mesh: Mesh | None, *, batch_axis: int = 0) -> Any:
  """Joins every process's rows into global arrays, divided over the batch axes.

  Args:
    batch: a pytree of NumPy arrays [rows of this process, ...].
    mesh: from `make_mesh`; with None, or one device, the arrays go to the default one.
    batch_axis: which axis the rows are; 1 for micro-batches [A, rows, ...].

  Raises:
    UserError: the mesh does not divide the rows.
  """
  if mesh is None or mesh.size == 1:
    # Not committed to a device, as a fresh state is not: a committed batch would commit the state
    # that the first step returns, and the second step would be compiled anew.
    return jax.device_put(batch)
  sharding = batch_sharding(mesh, batch_axis)
  parts = host_slice(mesh).count
  shards = int(np.prod([mesh.shape[a] for a in BATCH_AXES]))

  def one(x: Any) -> jax.Array:
    x = np.asarray(x)
    rows = x.shape[batch_axis] * parts
    if rows % shards:
      keys = " * ".join(f"config.mesh.{a}={mesh.shape[a]}" for a in BATCH_AXES if mesh.shape[a] > 1)
      raise UserError(f"a batch of {rows} rows does not divide by {keys}")
    shape = (*x.shape[:batch_axis], rows, *x.shape[batch_axis + 1 :])
    return jax.make_array_from_process_local_data(sharding, x, shape)

  return jax.tree.map(one, batch)


def fetch(tree: Any) -> Any:
  """The whole of each array as NumPy, on every host. All processes must call it together."""

  def one(x: Any) -> np.ndarray:
    if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
      return multihost_utils.process_allgather(x, tiled=True)
    return np.asarray(x)

  return jax.tree.map(one, tree)


def _number(name: str, given: int | None, variable: str) -> int:
  if given is not None:
    return given
  text = os.environ.get(variable)
  if text is None:
    raise UserError(f"a coordinator was given but not {name}; set it or {variable}")
  try:
    return int(text)
  except ValueError:
    raise UserError(f"{variable}={text!r} is not a number") from None
