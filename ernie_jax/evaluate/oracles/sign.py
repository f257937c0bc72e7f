"""Reads a sign: every place and every glyph is compared, the nearest wins if it is near enough."""

import dataclasses

import numpy as np
from jaxtyping import Float, UInt8
from numpy.lib.stride_tricks import sliding_window_view

from ernie_jax.data.world.render import SIGN_INK, SIGN_PAPER, sign_bitmap
from ernie_jax.data.world.scene import SIGN_ALPHABET, SIGN_GRID, SIGN_HEIGHT, place_of, sign_width

_BRIGHT = 200  # levels: a sign's paper, even blurred
_MIN_PAPER = 15  # grid cells that are as bright; the smallest sign has about forty
_CONTRASTS = (1.0, 0.75, 0.55)  # a blurred sign has less
_MAX_ERROR = 70  # root mean square over the sign at full contrast; a blank card has more than 100
_SHORTER = 20  # levels that fewer characters must fit better: they also fit a part of more
_LONGEST = 3  # characters


@dataclasses.dataclass(frozen=True)
class FoundSign:
  """A sign's text and its top left corner on the `SIGN_GRID`."""

  text: str
  row: int
  column: int

  @property
  def place(self) -> str:
    """The cell that its middle lies in."""
    middle = self.column + sign_width(len(self.text)) / 2, self.row + SIGN_HEIGHT / 2
    return place_of(*(v / SIGN_GRID for v in middle))

  def slices(self, side: int) -> tuple[slice, slice]:
    """Its rows and columns in a picture, and a grid cell around."""
    scale = side // SIGN_GRID
    ends = self.row + SIGN_HEIGHT, self.column + sign_width(len(self.text))
    return tuple(
      slice(max(start - 1, 0) * scale, (end + 1) * scale)
      for start, end in zip((self.row, self.column), ends)
    )


def read_sign(picture: UInt8[np.ndarray, "S S 3"]) -> FoundSign | None:
  """The sign in a picture whose side is a multiple of 32, or None."""
  scale = picture.shape[0] // SIGN_GRID
  grid = picture.reshape(SIGN_GRID, scale, SIGN_GRID, scale, 3).mean((1, 3, 4))
  if (grid > _BRIGHT).sum() < _MIN_PAPER:
    return None
  error, best = _best(grid, _LONGEST)
  for characters in range(_LONGEST - 1, 0, -1):
    shorter_error, shorter = _best(grid, characters)
    if shorter_error + _SHORTER < error:
      error, best = shorter_error, shorter
  return best if error < _MAX_ERROR else None


def _best(grid: Float[np.ndarray, "32 32"], characters: int) -> tuple[float, FoundSign]:
  """The best sign of so many characters, and its error as if its contrast were full."""
  width = sign_width(characters)
  windows = sliding_window_view(grid, (SIGN_HEIGHT, width))  # [rows, columns, 7, width]
  total, square = windows.sum((-2, -1)), (windows**2).sum((-2, -1))
  slots = [windows[..., 1:-1, 4 * i + 1 : 4 * i + 4] for i in range(characters)]
  inked = [slot.reshape(*total.shape, 15) @ _GLYPHS.T for slot in slots]  # [rows, columns, glyphs]
  results = []
  for contrast in _CONTRASTS:
    paper, ink = (128 + contrast * (level - 128) for level in (SIGN_PAPER, SIGN_INK))
    error = square - 2 * paper * total + SIGN_HEIGHT * width * paper**2  # as if it were blank
    change = [(ink**2 - paper**2) * _GLYPHS.sum(-1) - 2 * (ink - paper) * dots for dots in inked]
    error = error + sum(c.min(-1) for c in change)
    row, column = np.unravel_index(error.argmin(), error.shape)
    text = "".join(SIGN_ALPHABET[c[row, column].argmin()] for c in change)
    mean = max(error[row, column], 0) / (SIGN_HEIGHT * width)
    results.append((float(mean**0.5) / contrast, FoundSign(text, int(row), int(column))))
  return min(results, key=lambda result: result[0])


_GLYPHS = np.stack([sign_bitmap(c)[1:-1, 1:-1].reshape(15) for c in SIGN_ALPHABET]).astype(float)
