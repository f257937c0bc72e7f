"""Lays out one example: parts in, a row of exactly their length out.

Letters: L positions, F frames, K scales, N elements of a frame. Each part, or run of texts, becomes a piece, a small row
that counts groups and hidden intervals from its own start; `join` puts the pieces end to end, and one
last pass over the whole example writes the text targets, since a token is predicted by whatever position
stands before it.

Gotcha: the block of scale k (k >= 2) holds the sum of the scales before k on the grid of scale k, and
predicts scale k at the same place. Scale 1 has no block: BOI or BOV predicts it, or the sum (SS) of the
frame before. So a frame takes as many positions as it has elements.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from ernie_jax.sequence import parts as parts_lib
from ernie_jax.sequence.row import Kind, Row, empty_row, join
from ernie_jax.sequence.special import SpecialToken

_AREA_POWERS = {"inverse_sqrt_area": -0.5, "uniform": 0.0}


@dataclasses.dataclass(frozen=True)
class LayoutOptions:
  """How coordinates and loss weights are given to scales.

  Attributes:
    coordinates: "unit": tokens of every scale are 1 apart, h = c + i - (H_k - 1) / 2. "resized": every
      scale is spread over the extent of the largest, h = c + (i + 0.5) * H_K / H_k - 0.5 - (H_K - 1) / 2.
      Both centre-align the scales, which is all that the report says; the two readings are our choice.
    scale_weights: "inverse_sqrt_area": token weight of scale k proportional to 1 / sqrt(area_k)
      (Infinity, arXiv 2412.04431; the report gives no formula). "uniform": 1. Both have a mean of 1.

  Raises:
    ValueError: another value than these.
  """

  coordinates: Literal["unit", "resized"] = "unit"
  scale_weights: Literal["inverse_sqrt_area", "uniform"] = "inverse_sqrt_area"

  def __post_init__(self):
    if self.coordinates not in ("unit", "resized"):
      raise ValueError(f"coordinates must be 'unit' or 'resized', got {self.coordinates!r}")
    if self.scale_weights not in _AREA_POWERS:
      raise ValueError(
        f"scale_weights must be one of {', '.join(_AREA_POWERS)}, got {self.scale_weights!r}"
      )


@dataclasses.dataclass(frozen=True)
class _Piece:
  """A part, or a run of texts, laid out alone.

  Attributes:
    row: its positions; `target` and `text_weight` only where the part itself decides them.
    learned: bool [L], the token here is to be learnt by the position before it.
    speaks: bool [L], the position predicts the text token after it.
    resume: the coordinate of the position after the piece.
  """

  row: Row
  learned: np.ndarray
  speaks: np.ndarray
  resume: int


def lay_out(parts: Sequence[parts_lib.Part], *, options: LayoutOptions | None = None) -> Row:
  """Serialises one example into a row without padding, all of it example 1.

  Args:
    parts: the parts in reading order. Nothing is added: BOS is an ordinary `Text` token.
    options: coordinates and weights of scales; the defaults of `LayoutOptions` when None.

  Returns:
    A row of sum(part.length) positions. `text_weight` is 1 at a position whose next text token is to be
    learnt; `media_weight` averages 1 over the learnt elements of a part.

  Raises:
    ValueError: a negative token id.
  """
  options = options or LayoutOptions()
  pieces, resume = [], 0
  for is_text, run in itertools.groupby(parts, lambda part: isinstance(part, parts_lib.Text)):
    # A run of texts is one piece: an example can ask a dozen questions, and every piece costs the host time.
    for unit in [list(run)] if is_text else run:
      lay = _texts if is_text else _PIECES[type(unit)]
      pieces.append(lay(unit, resume, options))
      resume = pieces[-1].resume
  row = join([piece.row for piece in pieces])
  if not row.length:
    return row
  learned = np.concatenate([piece.learned for piece in pieces])
  speaks = np.concatenate([piece.speaks for piece in pieces])
  learns = speaks[:-1] & learned[1:]
  row.target[:-1][learns] = row.token[1:][learns]
  row.text_weight[:-1][learns] = 1.0
  return row


def _texts(texts: Sequence[parts_lib.Text], start: int, options: LayoutOptions) -> _Piece:
  del options
  tokens = np.concatenate([np.asarray(text.tokens, np.int32) for text in texts])
  if (tokens < 0).any():
    raise ValueError(f"tokens: ids must not be negative, got {int(tokens.min())}")
  row = _started(len(tokens))
  row.kind[:] = Kind.TEXT
  row.token[:] = tokens
  row.position[:] = _counted(start, len(tokens))
  row.group[:] = np.arange(len(tokens))
  learned = np.repeat([text.learn for text in texts], [text.length for text in texts])
  return _Piece(row, learned, np.ones(len(tokens), bool), start + len(tokens))


def _voice(part: parts_lib.Voice, start: int, options: LayoutOptions) -> _Piece:
  del options
  row = _started(part.length)
  row.kind[:] = Kind.VOICE
  row.position[:] = _counted(start, part.length)
  return _Piece(row, np.zeros(1, bool), np.ones(1, bool), start + part.length)


def _audio(part: parts_lib.Audio, start: int, options: LayoutOptions) -> _Piece:
  del options
  row = _started(part.length)
  _bracket(row, SpecialToken.BOA, SpecialToken.EOA)
  row.kind[1:-1] = Kind.AUDIO
  row.position[:] = _counted(start, part.length)
  row.group[:] = np.arange(part.length)
  row.media_slot[:-1] = part.slot
  row.media_element[:-1] = np.arange(part.frames + 1)
  row.media_weight[:-1] = float(part.learn)
  learned, speaks = _bracket_roles(row.length)
  learned[0] = part.learn  # EOA is a class of the audio heads, so no text position learns it
  return _Piece(row, learned, speaks, start + part.length)


def _context(part: parts_lib.ContextMedia, start: int, options: LayoutOptions) -> _Piece:
  row = _started(part.length)
  _bracket(row, *_vision_brackets(part.frames))
  area = part.grid[0] * part.grid[1]
  frame = np.repeat(np.arange(part.frames), area)
  row.kind[1:-1] = Kind.VISION_CONTEXT
  row.group[1:-1] = 1 + frame  # a frame is seen whole: our choice, the report does not say
  row.group[-1] = 1 + part.frames
  row.media_slot[1:-1] = part.slot
  row.media_element[1:-1] = np.arange(part.frames * area)
  plane = scale_coordinates(part.grid, part.grid, start=start + 1, coordinates=options.coordinates)
  row.position[1:-1, 0] = start + 1 + frame
  row.position[1:-1, 1:] = np.tile(plane, (part.frames, 1))
  resume = _close_positions(row, start, frames=part.frames, grid=part.grid)
  return _Piece(row, *_bracket_roles(row.length), resume)


def _vision(part: parts_lib.VisionTarget, start: int, options: LayoutOptions) -> _Piece:
  areas, per_frame = part.areas, part.elements_per_frame
  row = _started(part.length)
  _bracket(row, *_vision_brackets(part.frames))
  inside = slice(1, -1)
  row.kind[inside] = Kind.VISION_TARGET
  # Of a frame's positions the blocks of scales 2..K come first, then the sum.
  frame = np.repeat(np.arange(part.frames), per_frame)
  block = np.tile(np.repeat(np.arange(len(areas)), [*areas[1:], 1]), part.frames)
  row.group[inside] = 1 + frame * len(areas) + block
  row.group[-1] = 1 + part.frames * len(areas)
  row.media_slot[:-1] = part.slot
  row.media_element[:-1] = np.arange(part.frames * per_frame + 1)
  weights = np.tile(_scale_weights(areas, options.scale_weights), part.frames)
  weights[: part.given * per_frame] = 0.0
  row.media_weight[:-2] = weights  # the last sum predicts no element

  grids = [*part.scales[1:], part.scales[0]]
  plane = np.concatenate(
    [
      scale_coordinates(g, part.scales[-1], start=start + 1, coordinates=options.coordinates)
      for g in grids
    ]
  )
  row.position[inside, 0] = start + 1 + frame
  row.position[inside, 1:] = np.tile(plane, (part.frames, 1))
  resume = _close_positions(row, start, frames=part.frames, grid=part.scales[-1])

  # Every sum but the last says that another frame follows; the last says, by `speaks`, the end.
  goes_on = per_frame * np.arange(max(part.given, 1), part.frames)
  row.target[goes_on] = SpecialToken.NEXT_FRAME
  row.text_weight[goes_on] = 1.0
  learned, speaks = _bracket_roles(row.length)
  learned[0], learned[-1] = part.given == 0, part.given < part.frames
  speaks[-2] = True
  _hide_history(row, part)
  return _Piece(row, learned, speaks, resume)


_PIECES = {
  parts_lib.Audio: _audio,
  parts_lib.Voice: _voice,
  parts_lib.ContextMedia: _context,
  parts_lib.VisionTarget: _vision,
}


def scale_coordinates(
  grid: tuple[int, int],
  largest: tuple[int, int],
  *,
  start: float,
  coordinates: Literal["unit", "resized"] = "unit",
) -> Float[np.ndarray, "area 2"]:
  """(h, w) of the tokens of a scale, row by row, centre-aligned with the largest scale.

  The largest scale's coordinates start at `start` on both axes (our choice, so that none is smaller
  than those of the text before it).
  """
  axes = []
  for size, full in zip(grid, largest):
    centre = start + (full - 1) / 2
    if coordinates == "unit":
      axes.append(centre + np.arange(size) - (size - 1) / 2)
    else:
      axes.append(centre + (np.arange(size) + 0.5) * full / size - 0.5 - (full - 1) / 2)
  return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.float32)


def _scale_weights(areas: Sequence[int], weighting: str) -> Float[np.ndarray, "N"]:
  """Loss weights of a frame's elements in order of scale, with a mean of 1."""
  weights = np.repeat(np.array(areas, np.float64) ** _AREA_POWERS[weighting], areas)
  return (weights / weights.mean()).astype(np.float32)


def _hide_history(row: Row, part: parts_lib.VisionTarget) -> None:
  """Writes one hidden interval per key: from the first frame too late to see it to the part's end.

  A dropped frame is one with a window of 0, which is why one interval holds both regularisers.
  """
  end = row.length - 1  # the closing token, and all text after it, sees everything
  for frame in range(part.frames):
    window = 0 if frame in part.dropped else part.window
    if window is None or frame + window + 1 >= part.frames:
      continue
    keys = slice(1 + frame * part.elements_per_frame, 1 + (frame + 1) * part.elements_per_frame)
    row.hidden_from[keys] = 1 + (frame + window + 1) * part.elements_per_frame
    row.hidden_to[keys] = end


def _started(length: int) -> Row:
  row = empty_row(length)
  row.example[:] = 1
  return row


def _bracket(row: Row, opening: SpecialToken, closing: SpecialToken) -> None:
  row.kind[[0, -1]] = Kind.TEXT
  row.token[[0, -1]] = opening, closing


def _vision_brackets(frames: int) -> tuple[SpecialToken, SpecialToken]:
  if frames == 1:
    return SpecialToken.BOI, SpecialToken.EOI
  return SpecialToken.BOV, SpecialToken.EOV


def _counted(start: int, length: int) -> Float[np.ndarray, "L 3"]:
  return np.repeat(np.arange(start, start + length, dtype=np.float32)[:, None], 3, axis=1)


def _close_positions(row: Row, start: int, *, frames: int, grid: tuple[int, int]) -> int:
  """Places the opening token at `start` and the closing one at the maximum + 1; returns what is next."""
  closing = start + 1 + max(frames, *grid)
  row.position[0] = start
  row.position[-1] = closing
  return closing + 1


def _bracket_roles(length: int) -> tuple[np.ndarray, np.ndarray]:
  """(learned, speaks) of bracketed media: nothing learnt, the closing token predicts the text after."""
  learned, speaks = np.zeros(length, bool), np.zeros(length, bool)
  speaks[-1] = True
  return learned, speaks
