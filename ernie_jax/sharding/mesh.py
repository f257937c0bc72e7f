"""The device mesh: six named axes, built from a config and checked against the devices at hand.

Every configuration uses the same six axis names, so one table of rules (`rules.py`) serves a laptop
and a pod; an axis that is not used has size 1. Axes are in Auto mode: under Explicit mode Linen's
logical partitioning raises.

Gotcha: the batch is divided over data, fsdp *and* expert. An expert-parallel device is also a data
shard of its own, and tokens travel between them in `transports.py`.
"""

import contextlib
import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Literal

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh

from ernie_jax.errors import UserError

# Slowest first: neighbours on the fast network belong to the axes that talk most (tensor, expert).
AXES = ("stage", "data", "fsdp", "context", "expert", "tensor")
BATCH_AXES = ("data", "fsdp", "expert")

Transport = Literal["all_to_all", "ring"]


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """The mesh, config.mesh: how many parts each axis has. One axis may be -1, whatever is left.

  Attributes:
    data: copies of the model, each with its part of the batch.
    fsdp: parts of each parameter's model width; the batch is divided over it as well.
    expert: parts of the expert pool; the batch is divided over it as well.
    tensor: parts of heads, hidden widths and vocabulary.
    context: parts of the length of a row.
    stage: pipeline stages. Only 1: FSDP was faster in the published comparisons below pod scale.
    transport: how tokens reach their experts (`transports.py`).
    capacity_factor: buffer of the all_to_all transport, in units of a balanced router's need. It
      trades memory for the chance that a layer takes the slower ring; it never drops a token.
    simulated_devices: if positive, split the CPU into this many devices (`simulate_devices`).
    cpu_split: where a run is on a CPU, into how many devices it is split at most, each with a core and a part of the
      batch (`split_cpu`); rows of a batch must be a multiple of it. The step of a small model leaves all cores but one idle.
    quick_compile: compile with little optimisation (`compile_quickly`), for a run of few steps.
  """

  data: int = -1
  fsdp: int = 1
  expert: int = 1
  tensor: int = 1
  context: int = 1
  stage: int = 1
  transport: Transport = "all_to_all"
  capacity_factor: float = 1.5
  simulated_devices: int = 0
  cpu_split: int = 0
  quick_compile: bool = False

  def __post_init__(self) -> None:
    for axis in AXES:
      size = getattr(self, axis)
      if size < 1 and size != -1:
        raise ValueError(f"{axis} must be positive, or -1 for whatever is left; got {size}")
    if sum(getattr(self, axis) == -1 for axis in AXES) > 1:
      raise ValueError("only one axis may be -1")
    if self.stage != 1:
      raise ValueError(f"stage must be 1 (layers are not pipelined), got {self.stage}")
    if self.capacity_factor <= 0:
      raise ValueError(f"capacity_factor must be positive, got {self.capacity_factor}")
    for name in ("simulated_devices", "cpu_split"):
      if getattr(self, name) < 0:
        raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


# Part of JAX's compilation key, so that another transport is another program (an ordinary global
# would be read once, when a function is first traced).
entered_config = jax.make_user_context(MeshConfig())


def simulate_devices(count: int) -> None:
  """Splits the CPU into `count` devices, to try a mesh without owning one. 0 leaves it as it is.

  Call it before anything touches a device.

  Raises:
    UserError: JAX is already running with another number of devices.
  """
  if count == 0:
    return
  # Options are refused or ignored once a backend runs; the same devices are then good enough.
  with contextlib.suppress(RuntimeError):
    jax.config.update("jax_num_cpu_devices", count)
    jax.config.update("jax_platforms", "cpu")
  found = len(jax.local_devices())
  if found != count or jax.default_backend() != "cpu":
    raise UserError(
      f"config.mesh.simulated_devices={count} cannot be had: JAX runs on {found} "
      f"{jax.default_backend()} device(s); set JAX_PLATFORMS=cpu and start afresh"
    )


def split_cpu(most: int) -> None:
  """Splits the CPU into as many devices as this process has cores, a power of two, at most `most`.

  A process whose devices are others (a GPU) is not changed by it, nor is one that has used a device already. A stage
  that asks for fewer (`MeshConfig.cpu_split`) takes the first ones.
  """
  count = 1 << max(0, min(most, _cores()).bit_length() - 1)
  if count > 1:
    with contextlib.suppress(RuntimeError):
      jax.config.update("jax_num_cpu_devices", count)
      _split.append(count)


def _cores() -> int:
  """Cores that this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_split: list[int] = []  # how the CPU was split by `split_cpu`


# A training step compiles in a third of the time with XLA's older emitters of fusions, and a fifth sooner still
# without LLVM's expensive passes.
_QUICK = (
  "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
  " --xla_llvm_disable_expensive_passes=true"
)


def compile_quickly() -> None:
  """Programs are compiled with little optimisation from here on, also those of processes that this one starts.

  For steps so few that compiling them is what takes the time: a joint step on CPU compiles several times as fast.
  Call it before anything touches a device. What XLA_FLAGS says wins.
  """
  os.environ["XLA_FLAGS"] = f"{_QUICK} {os.environ.get('XLA_FLAGS', '')}"


def axis_sizes(config: MeshConfig, n_devices: int) -> dict[str, int]:
  """The size of each axis, with -1 filled in. Without a -1 they may use a part of the devices.

  Raises:
    UserError: the axes do not divide the devices; the key is named.
  """
  sizes = {axis: getattr(config, axis) for axis in AXES}
  left = n_devices
  for axis, size in sizes.items():
    if size == -1:
      continue
    if left % size:
      raise UserError(
        f"config.mesh.{axis}={size} does not divide {_devices(n_devices)}"
        + (f" ({left} left by the other axes)" if left != n_devices else "")
      )
    left //= size
  free = [axis for axis, size in sizes.items() if size == -1]
  if free:
    sizes[free[0]] = left
  return sizes


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
  """The mesh of `config` over `devices` (all of them by default), of one slice or several.

  Axes that spell out a smaller mesh than there are devices get the first ones. With several TPU
  slices, the data axis (then fsdp) is what spans the slow network between them.

  Raises:
    UserError: the mesh does not divide the devices, or leaves a process without any.
  """
  devices = _own_devices(config) if devices is None else list(devices)
  sizes = axis_sizes(config, len(devices))
  used = math.prod(sizes.values())
  if used < len(devices) and len({d.process_index for d in devices}) > 1:
    raise UserError(
      f"config.mesh uses {used} of {len(devices)} devices, but every process must take part; "
      "set config.mesh.data=-1"
    )
  devices = devices[:used]
  kinds = (AxisType.Auto,) * len(AXES)
  slices = len({getattr(d, "slice_index", 0) for d in devices})
  if slices == 1:
    return jax.make_mesh(tuple(sizes.values()), AXES, axis_types=kinds, devices=devices)
  across = dict.fromkeys(AXES, 1)
  across["data"] = math.gcd(sizes["data"], slices)
  across["fsdp"] = slices // across["data"]
  if sizes["fsdp"] % across["fsdp"]:
    raise UserError(
      f"config.mesh.data={sizes['data']} times config.mesh.fsdp={sizes['fsdp']} must be a multiple "
      f"of the {slices} slices"
    )
  within = [sizes[a] // across[a] for a in AXES]
  grid = mesh_utils.create_hybrid_device_mesh(within, list(across.values()), devices=devices)
  return Mesh(np.asarray(grid), AXES, axis_types=kinds)


def _own_devices(config: MeshConfig) -> list[jax.Device]:
  """All devices; of a CPU that was split for some stage of a run, as many as this one wants."""
  devices = jax.devices()
  shared = _split and not config.simulated_devices and devices[0].platform == "cpu"
  return devices[: max(1, config.cpu_split)] if shared else devices


def active_config() -> MeshConfig:
  """The config that `rules.enter` was given: how tokens travel under the current mesh."""
  return entered_config.value


def active_mesh() -> AbstractMesh | None:
  """The current mesh, or None where arrays are whole: no mesh, one device, inside a shard_map."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1 or AxisType.Manual in mesh.axis_types:
    return None
  return mesh


def _devices(count: int) -> str:
  return f"{count} device" + ("s" if count != 1 else "")
