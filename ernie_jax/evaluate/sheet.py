"""A contact sheet: outputs in sections, the words under each, a green frame where right and a red one where wrong.

Colour is not the only sign: a wrong one is crossed in its corner as well.
"""

import dataclasses
import itertools
import os
import textwrap
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from ernie_jax.whole_file import written_whole

WIDTH = 1248  # of the sheet, in pixels: eight pictures, or two videos of nine frames
_PICTURE, _FRAME = 128, 64  # sides that a picture and a frame of a video are enlarged to, about
_EDGE, _GAP = 4, 10  # of the coloured frame, and around a cell
_BETWEEN = 2  # white columns between frames
_TEXT, _TITLE = 11, 15  # font sizes
_LINE = _TEXT + 3
_CHARACTER = 5.6  # mean width at that size
_RIGHT, _WRONG = (40, 150, 60), (205, 40, 40)


@dataclasses.dataclass(frozen=True, eq=False)
class Shown:
  """One output.

  Attributes:
    section: the title that it stands under.
    media: uint8 [F, H, W, 3], what was drawn or looked at, or a spectrogram; frames
      stand side by side.
    words: what was asked, or asked and told.
    right: how it was judged.
  """

  section: str
  media: UInt8[np.ndarray, "F H W 3"] = dataclasses.field(repr=False)
  words: str
  right: bool


def write_sheet(path: str | os.PathLike, shown: Sequence[Shown]) -> None:
  """Writes the sheet as a PNG `WIDTH` wide, sections in the order of `shown`.

  Raises:
    UserError: the file cannot be written.
  """
  with written_whole(path) as part:
    draw_sheet(shown).save(part, format="png")


def draw_sheet(shown: Sequence[Shown]) -> Image.Image:
  """The sheet as a picture."""
  rows: list[Image.Image] = []
  for title, group in itertools.groupby(shown, key=lambda one: one.section):
    cells = list(group)
    right = sum(cell.right for cell in cells)
    rows.append(_title(f"{title}: {right} of these {len(cells)} right"))
    per_row = max(1, WIDTH // _cell_width(cells[0]))
    rows += [_row(cells[i : i + per_row]) for i in range(0, len(cells), per_row)]
  sheet = Image.new("RGB", (WIDTH, sum(row.height for row in rows) + _GAP), "white")
  top = 0
  for row in rows:
    sheet.paste(row, (0, top))
    top += row.height
  return sheet


def _scale(one: Shown) -> int:
  """How many times pixels are enlarged: a whole number, so that they stay square."""
  side = _PICTURE if len(one.media) == 1 else _FRAME
  return max(1, side // one.media.shape[1])


def _cell_width(one: Shown) -> int:
  frames, _, width, _ = one.media.shape
  return frames * (width * _scale(one) + _BETWEEN) - _BETWEEN + 2 * (_EDGE + _GAP)


def _title(text: str) -> Image.Image:
  strip = Image.new("RGB", (WIDTH, _TITLE + 2 * _GAP), "white")
  font = ImageFont.load_default(size=_TITLE)
  ImageDraw.Draw(strip).text((_GAP, _GAP), text, fill="black", font=font)
  return strip


def _row(cells: Sequence[Shown]) -> Image.Image:
  """Cells side by side, as high as the one with most words."""
  width = _cell_width(cells[0])
  characters = int((width - 2 * _GAP) / _CHARACTER)
  texts = [_lines(cell.words, characters) for cell in cells]
  side = cells[0].media.shape[1] * _scale(cells[0])
  height = side + 2 * _EDGE + _GAP + _LINE * max(map(len, texts)) + _GAP
  row = Image.new("RGB", (WIDTH, height), "white")
  pen, font = ImageDraw.Draw(row), ImageFont.load_default(size=_TEXT)
  for i, (cell, lines) in enumerate(zip(cells, texts)):
    left = i * width + _GAP
    picture = _strip(cell)
    box = (left, 0, left + picture.width + 2 * _EDGE - 1, picture.height + 2 * _EDGE - 1)
    pen.rectangle(box, fill=_RIGHT if cell.right else _WRONG)
    row.paste(picture, (left + _EDGE, _EDGE))
    if not cell.right:
      _cross(pen, box[2] - _EDGE, _EDGE)
    for n, line in enumerate(lines):
      pen.text((left, side + 2 * _EDGE + 3 + n * _LINE), line, fill="black", font=font)
  return row


def _strip(one: Shown) -> Image.Image:
  """Its frames, enlarged, side by side."""
  frames = one.media.repeat(_scale(one), 1).repeat(_scale(one), 2)
  apart = np.pad(frames, ((0, 0), (0, 0), (0, _BETWEEN), (0, 0)), constant_values=255)
  return Image.fromarray(np.concatenate(list(apart), axis=1)[:, :-_BETWEEN])


def _lines(words: str, characters: int) -> list[str]:
  """The words wrapped, without what the font cannot show."""
  shown = words.encode("latin-1", errors="replace").decode("latin-1")
  wrapped = [part for line in shown.splitlines() for part in textwrap.wrap(line, characters)]
  return wrapped or ["(nothing)"]


def _cross(pen: ImageDraw.ImageDraw, right: int, top: int) -> None:
  """A small cross in the top right corner."""
  size = 10
  pen.rectangle((right - size - 3, top, right, top + size + 3), fill="white")
  corners = (right - size - 1, top + 2, right - 2, top + size + 1)
  x0, y0, x1, y1 = corners
  for line in ((x0, y0, x1, y1), (x0, y1, x1, y0)):
    pen.line(line, fill=_WRONG, width=2)
