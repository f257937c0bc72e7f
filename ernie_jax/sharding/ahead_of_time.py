"""What a compiled program will need, read before it ever runs: memory, FLOPs, collectives.

With libtpu installed (the `tpu` extra) a program can be compiled for a TPU slice that nobody here
owns, so "does it fit" is a test. Numbers are per device.

Gotchas: a collective inside a scan is counted once however often it runs, and the FLOPs of a custom
kernel are whatever its author declared. Make random keys and unbox parameters outside the topology's
mesh: nothing can run on it.
"""

import collections
import dataclasses
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.experimental import topologies

from ernie_jax.errors import UserError

COLLECTIVES = (
  "all-reduce",
  "all-gather",
  "reduce-scatter",
  "ragged-all-to-all",
  "all-to-all",
  "collective-permute",
)
# An asynchronous collective is a -start and a -done; the -done is not counted.
_OPERATION = re.compile(rf" (?P<name>{'|'.join(COLLECTIVES)})(?:-start)?\(")


@dataclasses.dataclass(frozen=True)
class Report:
  """What one device needs to run a compiled program.

  Attributes:
    argument_bytes, output_bytes, temp_bytes: memory; outputs that reuse a donated argument are in
      `alias_bytes`, and are counted in the first two as well.
    flops: floating-point operations of one call.
    collectives: how many of each kind the program text has; kinds that do not occur are left out.
  """

  argument_bytes: int
  output_bytes: int
  temp_bytes: int
  alias_bytes: int
  flops: float
  collectives: dict[str, int]

  @property
  def peak_bytes(self) -> int:
    """All that is held at once, at most."""
    return self.argument_bytes + self.output_bytes + self.temp_bytes - self.alias_bytes

  def __str__(self) -> str:
    sizes = ("argument", "output", "temp", "alias", "peak")
    rows = [
      (f"{name} memory", f"{getattr(self, f'{name}_bytes') / 2**20:,.1f} MiB") for name in sizes
    ]
    rows.append(("compute", f"{self.flops / 1e9:,.2f} GFLOP"))
    rows += [(name, str(count)) for name, count in self.collectives.items()]
    return "\n".join(f"{name:<20}{value:>16}" for name, value in rows)


def compile_report(fn: Callable, args: Sequence[Any], **jit_options: Any) -> Report:
  """Compiles `jax.jit(fn, **jit_options)` for `args`, which may be ShapeDtypeStructs with shardings."""
  return report(jax.jit(fn, **jit_options).lower(*args).compile())


def report(compiled: jax.stages.Compiled) -> Report:
  """Reads what XLA says of a compiled program."""
  memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
  return Report(
    argument_bytes=memory.argument_size_in_bytes,
    output_bytes=memory.output_size_in_bytes,
    temp_bytes=memory.temp_size_in_bytes,
    alias_bytes=memory.alias_size_in_bytes,
    flops=float(cost.get("flops", 0.0)),
    collectives=collective_counts(compiled.as_text()),
  )


def collective_counts(hlo: str) -> dict[str, int]:
  """How many collectives of each kind the text of an optimised program has."""
  found = collections.Counter(match["name"] for match in _OPERATION.finditer(hlo))
  return {name: found[name] for name in COLLECTIVES if found[name]}


def tpu_devices(topology: str) -> list[jax.Device]:
  """The devices of a TPU slice to compile for, such as "v5p:4x4x4"; pass them to `make_mesh`.

  Raises:
    UserError: libtpu is not installed, or it knows no such slice.
  """
  # Off a TPU machine, libtpu would otherwise wait for a metadata server.
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  # Several processes may compile at once: the lock is for machines that have a TPU.
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
  try:
    found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
  except (RuntimeError, ValueError, NotImplementedError) as e:
    reason = (str(e).splitlines() or [type(e).__name__])[0]
    raise UserError(f"cannot compile for TPU topology {topology!r}: {reason}") from e
  return list(found.devices)
