"""Viterbi over a loop of units: which words, or which phones, explain the scores of the frames best.

A unit is a chain of states, each of one frame at least; after its end any unit may follow. Clips of
different length are decoded together.

Letters: B clips, F frames, J scored states, N states of the loop, U units.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

_STAY, _GO_ON, _ENTER = range(3)


@dataclasses.dataclass(frozen=True)
class Span:
  """A unit that was found, and its frames: from `start` up to but not including `end`."""

  unit: int
  start: int
  end: int


class Loop:
  """Units that follow one another freely."""

  def __init__(self, units: Sequence[Sequence[int]], entry: Sequence[float]):
    """Takes the states of each unit (indices of scores) and the log weight of entering it."""
    self.states = np.concatenate([np.asarray(u) for u in units])  # [N]
    ends = np.cumsum([len(u) for u in units])
    self.last: Int[np.ndarray, "U"] = ends - 1
    self.first: Int[np.ndarray, "U"] = ends - [len(u) for u in units]
    self.entry = np.asarray(entry, np.float32)
    self._unit = np.repeat(np.arange(len(units)), [len(u) for u in units])

  def decode(self, scores: Sequence[Float[np.ndarray, "F J"]]) -> list[tuple[Span, ...]]:
    """The best sequence of units for each clip; a clip of fewer frames than any unit has none."""
    lengths = [len(s) for s in scores]
    choices, before = self._forward(scores, max(lengths, default=0))
    return [
      self._trace(choices[:, b], before[:, b], length) if length >= 1 else ()
      for b, length in enumerate(lengths)
    ]

  def _forward(self, scores: Sequence[np.ndarray], frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each state came from [F, B, N], and the unit that ends best before each frame [F + 1, B]."""
    count, clips = len(self.states), len(scores)
    choices = np.zeros((frames, clips, count), np.uint8)
    before = np.full((frames + 1, clips), -1, np.int16)
    value = np.full((clips, count), -np.inf, np.float32)
    done = np.zeros(clips, np.float32)  # the best of what has ended; at the start, nothing
    padded = np.zeros((frames, clips, scores[0].shape[1] if clips else 0), np.float32)
    for b, s in enumerate(scores):
      padded[: len(s), b] = s
    for t in range(frames):
      onward = np.roll(value, 1, axis=1)
      onward[:, self.first] = done[:, None] + self.entry
      came = onward > value
      value = np.where(came, onward, value) + padded[t][:, self.states]
      choices[t] = came
      choices[t][:, self.first] *= _ENTER
      ended = value[:, self.last]
      before[t + 1] = np.where(np.isfinite(ended.max(-1)), ended.argmax(-1), -1)
      done = ended.max(-1)
    return choices, before

  def _trace(self, choices: np.ndarray, before: np.ndarray, frames: int) -> tuple[Span, ...]:
    unit, end, spans = int(before[frames]), frames, []
    while unit >= 0:
      state, t = self.last[unit], end - 1
      while choices[t, state] != _ENTER:
        state -= int(choices[t, state] == _GO_ON)
        t -= 1
      spans.append(Span(unit, t, end))
      unit, end = (int(before[t]), t) if t else (-1, 0)
    return tuple(reversed(spans))
