"""Mixtures of row sources by weight, each with random access, so that a mixture has it too."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import grain
import numpy as np

from ernie_jax.sequence.media import MediaRow
from ernie_jax.sequence.row import Row
from ernie_jax.sequence.sound import Sound

ENDLESS = 2**40  # rows: what Grain is told is the length of a source that repeats for ever


class RowSource(Protocol):
  """Rows by number. `len` is one epoch; row i is defined for every i >= 0, later epochs included.

  `fingerprint` names what the rows are made of: sources of equal text have equal ones, on any machine.
  """

  fingerprint: str

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Row | MediaRow: ...


@dataclasses.dataclass(frozen=True)
class _Endless:
  """Grain takes an index modulo the length, which would lose the epoch; so no epoch ends."""

  source: RowSource

  def __len__(self) -> int:
    return ENDLESS

  def __getitem__(self, index: int) -> Row | MediaRow:
    return self.source[index]


def mix(sources: Sequence[RowSource], weights: Sequence[float]) -> grain.MapDataset:
  """Interleaves endless sources so that any prefix has nearly the shares of `weights`.

  Which source gives row i, and its which row, follows from i alone. Mixing is done here, before
  anything iterates, because mixing iterators would multiply Grain's reader threads.

  Raises:
    ValueError: no source, a source without rows, or not one positive weight for each.
  """
  if not sources or len(sources) != len(weights) or min(weights) <= 0:
    raise ValueError(f"{len(sources)} sources need as many positive weights, got {list(weights)}")
  if not all(len(s) for s in sources):
    raise ValueError("a source has no rows")
  endless = [grain.MapDataset.source(_Endless(s)) for s in sources]
  if len(endless) == 1:
    return endless[0]
  return grain.MapDataset.mix(endless, weights)


def stack_rows(rows: Sequence[Row | MediaRow]) -> Row | MediaRow:
  """A batch [B, L] of rows [L], or of rows with media, whose slots then have a leading [B] too."""
  stack = lambda name: [getattr(row, name) for row in rows]
  if isinstance(rows[0], Row):
    return Row(**{f.name: np.stack(stack(f.name)) for f in dataclasses.fields(Row)})
  slots = lambda name: tuple(np.stack(kind) for kind in zip(*stack(name)))
  sound = None
  if rows[0].sound is not None:
    field = lambda name: np.stack([getattr(one, name) for one in stack("sound")])
    sound = Sound(codes=field("codes"), voice=field("voice"))
  return MediaRow(
    row=stack_rows(stack("row")), drawn=slots("drawn"), seen=slots("seen"), sound=sound
  )
