"""Packs examples into one row of a fixed length. Packing never leaks: examples do not see each other,
and every one keeps the positions it was laid out with, so it computes what it would compute alone.
"""

from collections.abc import Sequence

import numpy as np

from ernie_jax.sequence.row import Kind, Row, empty_row, join
from ernie_jax.sequence.special import SpecialToken


def pack(
  examples: Sequence[Row],
  length: int,
  *,
  vision_slots: Sequence[int] | None = None,
  audio_slots: Sequence[int] | None = None,
) -> Row:
  """Puts laid-out examples end to end, numbers them from 1, and pads to `length`.

  Args:
    examples: rows from `lay_out`, in order.
    length: L of the result.
    vision_slots: what to add to the vision slots of each example, so that examples laid out apart do
      not share slots; None adds nothing.
    audio_slots: the same for audio slots.

  Returns:
    A row of `length` positions. Padding has a group after all others, so groups never decrease.

  Raises:
    ValueError: the examples do not fit, or not one slot offset per example.
  """
  used = sum(row.length for row in examples)
  if used > length:
    raise ValueError(f"{len(examples)} examples need {used} positions, but the row has {length}")
  vision_slots = _offsets("vision_slots", vision_slots, len(examples))
  audio_slots = _offsets("audio_slots", audio_slots, len(examples))
  numbered = [
    _move_slots(row, vision, audio).replace(example=np.full(row.length, number, np.int32))
    for number, (row, vision, audio) in enumerate(zip(examples, vision_slots, audio_slots), start=1)
  ]
  return pad(join(numbered), length)


def pad(row: Row, length: int) -> Row:
  """Adds padding at the end of `row` up to `length` positions.

  Raises:
    ValueError: the row is longer than that.
  """
  if row.length > length:
    raise ValueError(f"a row of {row.length} positions cannot be padded to {length}")
  return join([row, empty_row(length - row.length)])


def _offsets(name: str, offsets: Sequence[int] | None, count: int) -> Sequence[int]:
  if offsets is None:
    return [0] * count
  if len(offsets) != count:
    raise ValueError(f"{name}: {len(offsets)} offsets for {count} examples")
  return offsets


def _move_slots(row: Row, vision: int, audio: int) -> Row:
  is_audio = (row.kind == Kind.AUDIO) | (row.token == SpecialToken.BOA)
  moved = row.media_slot + np.where(is_audio, audio, vision).astype(np.int32)
  return row.replace(media_slot=np.where(row.media_slot < 0, row.media_slot, moved))
