"""The row: `L` positions of one or more packed examples, which is all that the model ever sees.

Letters: L positions. Every field is a NumPy array of length L (position: [L, 3]); a batch of rows has
one more leading axis, B. Built on the host; `flax.struct` makes it a pytree that a jitted function takes.

Two conventions carry everything:

* Visible(query, key) = same example, and group[key] <= group[query], and the query's index is not in
  [hidden_from[key], hidden_to[key]). There is no other mask (`rule.py`).
* `media_element` numbers what a position *predicts*: element e of its media slot. The input at that
  position is what is known before element e (vision: the sum of the scales before it; audio: the codes
  of frame e - 1). So BOI and BOA, though they are text tokens, carry element 0 of the slot they open.
  A vision target of F frames, each of N elements (the areas of its scales added up), numbers token i
  of scale k of frame f as f * N + (areas of the scales before k) + i; the sum of all scales of frame f
  carries (f + 1) * N, which for the last frame predicts nothing and only names its input. A clip of n
  audio frames has the elements 0..n - 1 and n, the end class. Context features predict nothing: there
  the element is the feature at that position. Vision slots and audio slots are numbered apart.
"""

import dataclasses
import enum
from collections.abc import Sequence

import flax.struct
import numpy as np


class Kind(enum.IntEnum):
  """What fills a position."""

  PAD = 0
  TEXT = 1
  VISION_CONTEXT = 2  # understanding features: no loss
  VISION_TARGET = 3  # a token of a scale that is being predicted, or the sum of all scales
  AUDIO = 4
  VOICE = 5  # how a speaker sounds: no loss


@flax.struct.dataclass
class Row:
  """One row of positions, or a batch of rows.

  Attributes:
    kind: int32 [L], a `Kind`.
    token: int32 [L], the text or special-token id where kind is TEXT, else 0.
    position: float32 [L, 3], (t, h, w) of Uni-RoPE; text and audio have t = h = w.
    group: int32 [L], non-decreasing along the row; a group is what is predicted at once.
    example: int32 [L], which packed example, counted from 1; 0 for padding.
    hidden_from: int32 [L], first query position to which this key is invisible.
    hidden_to: int32 [L], one past the last; hidden_from == hidden_to hides nothing.
    media_slot: int32 [L], the media slot this position reads or predicts, -1 for none.
    media_element: int32 [L], the element of the slot (see the module docstring), 0 where unused.
    target: int32 [L], the text token to predict, 0 where text_weight is 0.
    text_weight: float32 [L], weight of the text loss at this position.
    media_weight: float32 [L], weight of the vision or audio loss at this position.
  """

  kind: np.ndarray
  token: np.ndarray
  position: np.ndarray
  group: np.ndarray
  example: np.ndarray
  hidden_from: np.ndarray
  hidden_to: np.ndarray
  media_slot: np.ndarray
  media_element: np.ndarray
  target: np.ndarray
  text_weight: np.ndarray
  media_weight: np.ndarray

  @property
  def length(self) -> int:
    """L, the number of positions."""
    return self.kind.shape[-1]


def empty_row(length: int) -> Row:
  """A row of `length` padding positions; padding sees nothing and is seen by nothing real."""
  ints = lambda: np.zeros(length, np.int32)
  floats = lambda: np.zeros(length, np.float32)
  return Row(
    kind=ints(),
    token=ints(),
    position=np.zeros((length, 3), np.float32),
    group=ints(),
    example=ints(),
    hidden_from=ints(),
    hidden_to=ints(),
    media_slot=np.full(length, -1, np.int32),
    media_element=ints(),
    target=ints(),
    text_weight=floats(),
    media_weight=floats(),
  )


def join(rows: Sequence[Row]) -> Row:
  """Puts rows end to end: groups go on counting, hidden intervals move along, the rest is kept.

  Example numbers are kept as they are, so pieces of one example stay one (`pack` renumbers).
  """
  index, group, moved = 0, 0, []
  for row in rows:
    moved.append(
      row.replace(
        group=row.group + group,
        hidden_from=row.hidden_from + index,
        hidden_to=row.hidden_to + index,
      )
    )
    index += row.length
    group += int(row.group[-1]) + 1 if row.length else 0
  if not moved:
    return empty_row(0)
  names = [field.name for field in dataclasses.fields(Row)]
  return Row(**{n: np.concatenate([getattr(row, n) for row in moved]) for n in names})
