"""Analysis by synthesis: reads the objects of a picture by drawing them again, and judges it by a prompt.

It sees pixels and the world's palette, never a model. The hue of a pixel, whatever its grey, tells
the colour and how much of the pixel is covered, so textures (which are grey) do not matter; then
every shape at every size is drawn at small offsets around each blob, and the drawing that explains most
of it wins. What no drawing explains is something else.

Letters: S side, C colours, W width of a patch, N drawings (shape, size and offset).
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from ernie_jax.data.world.render import coverage
from ernie_jax.data.world.scene import COLOURS, RADIUS, SHAPES, Described, place_of
from ernie_jax.evaluate.oracles.score import WORDS, Expected, pair_up, share, sign_matches
from ernie_jax.evaluate.oracles.sign import FoundSign, read_sign

_SEEN = 0.4  # a pixel covered by this much belongs to a blob
_GREY_SEEN = 50  # levels from the background's; a texture reaches half of it
_MIN_AREA = 5 / 32**2  # of the picture: smaller blobs are noise
_MIN_FIT = 0.68  # of a blob's energy must be explained by its drawing; half an object reaches 0.6
_COARSE = (1.25 / 32, 0.5 / 32)  # how far around a blob's middle drawings are tried, and how finely
_FINE = (0.75 / 32, 0.25 / 32)  # the same around the best of those
_MAX_BLOB = 2 * max(RADIUS.values()) + 2 / 32  # sides of a blob's box: a larger one is two objects
_BLURS = (0.0, 0.02)  # of the side: drawings are tried sharp and soft, as decoders draw
_STRENGTH = (0.75, 1.2)  # of a drawing's colour, at its jitter
_MOST = 8  # objects read at most


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found(Described):
  """An object that was read.

  Attributes:
    x, y: its centre, shares of the side.
    fit: the share of its pixels' energy that the drawing explains; 1 is perfect.
  """

  x: float
  y: float
  fit: float


@dataclasses.dataclass(frozen=True)
class Reading:
  """What a picture holds.

  Attributes:
    objects: read with a good fit, the largest blob first.
    foreign: the share of the picture that differs from the background and is none of them.
    sign: the sign, or None.
  """

  objects: tuple[Found, ...]
  foreign: float
  sign: FoundSign | None


@dataclasses.dataclass(frozen=True)
class PictureScore:
  """A picture against a prompt.

  Attributes:
    shape, colour, size, place: the share of the expected objects that have it right.
    count: as many objects as expected.
    nothing_else: nothing there that is neither an object nor the sign.
    sign: the expected text and place, or no sign where none is expected.
    all_correct: all of it.
  """

  shape: float
  colour: float
  size: float
  place: float
  count: bool
  nothing_else: bool
  sign: bool
  all_correct: bool


def judge_picture(picture: UInt8[np.ndarray, "S S 3"], expected: Expected) -> PictureScore:
  """Reads a picture and compares it with what a prompt fixes.

  Args:
    picture: of a side that is a multiple of 32.
    expected: a scene, or the objects and the sign that a prompt describes.
  """
  return score_reading(read_picture(picture), expected)


def score_reading(reading: Reading, expected: Expected) -> PictureScore:
  """`judge_picture` of what was read already."""
  partners = pair_up(expected.objects, reading.objects)
  shares = {name: share(expected.objects, partners, name) for name in WORDS}
  rest = {
    "count": len(reading.objects) == len(expected.objects),
    "nothing_else": reading.foreign == 0,
    "sign": sign_matches(expected.sign, reading.sign),
  }
  right = all(value == 1 for value in shares.values()) and all(rest.values())
  return PictureScore(**shares, **rest, all_correct=right)


def read_picture(picture: UInt8[np.ndarray, "S S 3"]) -> Reading:
  """Finds the objects, the sign, and what is neither.

  Raises:
    ValueError: the picture is not square, or its side not a multiple of 32.
  """
  side = picture.shape[0]
  if picture.shape != (side, side, 3) or side % 32:
    raise ValueError(f"a picture of [S, S, 3], S a multiple of 32, is needed: {picture.shape}")
  sign = read_sign(picture)
  view = _View(picture, sign)
  fits = _peel(view)
  for i, fit in enumerate(fits):
    others = fits[:i] + fits[i + 1 :]
    fits[i] = _fit(view, _bank(side, *_FINE), fit.colour, [_start(view, fit.x, fit.y)], others)
  good = [f for f in fits if f.share >= _MIN_FIT]
  found = tuple(
    Found(
      shape=f.shape,
      colour=tuple(COLOURS)[f.colour],
      size=f.size,
      place=place_of(f.x / side, f.y / side),
      x=f.x / side,
      y=f.y / side,
      fit=f.share,
    )
    for f in good
  )
  return Reading(found, _foreign(view, good), sign)


class _View:
  """A picture as the oracle sees it, padded so that every patch lies within.

  Attributes:
    margin: how many pixels are padded on each side.
    cover: [C, S, S] how much of each pixel each colour covers, from its hue.
    blob: [S, S] the colour of each pixel that is covered, -1 elsewhere.
    odd: [S, S] whether a pixel is far from the background in hue or in grey.
  """

  def __init__(self, picture: np.ndarray, sign: FoundSign | None):
    self.side, self.margin = picture.shape[0], _width(picture.shape[0])
    pixels = picture.astype(np.float32)
    grey = pixels.mean(-1)
    hue = pixels - grey[..., None]
    palette = np.array(list(COLOURS.values()), np.float32)
    lines = palette - palette.mean(-1, keepdims=True)
    lengths = (lines**2).sum(-1)[:, None, None]
    cover = np.einsum("yxc,kc->kyx", hue, lines) / lengths
    held = np.clip(cover, 0, 1.15)
    # The squared distance to each colour's line, less the part that is the same for all of them.
    nearest = ((held**2 - 2 * held * cover) * lengths).argmin(0)
    seen = np.take_along_axis(cover, nearest[None], 0)[0] > _SEEN
    odd = seen | (np.abs(grey - np.median(grey)) > _GREY_SEEN)
    if sign is not None:
      seen[sign.slices(self.side)] = odd[sign.slices(self.side)] = False
    pad = [(self.margin, self.margin)] * 2
    self.cover = np.pad(np.clip(cover, -0.5, 1.2), [(0, 0), *pad])
    self.blob = np.pad(np.where(seen, nearest, -1), pad, constant_values=-1)
    self.odd = np.pad(odd, pad)


@dataclasses.dataclass(frozen=True)
class _Bank:
  """Every drawing that is tried: [N, W, W], its words and its offset from the patch's middle."""

  drawings: Float[np.ndarray, "N W W"]
  words: tuple[tuple[str, str, float, float], ...]  # shape, size, x, y

  @functools.cached_property
  def flat(self) -> Float[np.ndarray, "N WW"]:
    return self.drawings.reshape(len(self.words), -1)

  @functools.cached_property
  def squares(self) -> Float[np.ndarray, "N WW"]:
    return self.flat**2


def _width(side: int) -> int:
  """Pixels of a patch's side, an odd number: the largest object fits in at every offset."""
  return 2 * int(np.ceil((max(RADIUS.values()) + _COARSE[0]) * side + 0.5)) + 1


@functools.lru_cache(maxsize=8)
def _bank(side: int, farthest: float, step: float) -> _Bank:
  pixels = np.arange(_width(side), dtype=np.float32) - _width(side) // 2
  offsets = np.arange(-farthest, farthest + step / 2, step) * side
  drawings, words = [], []
  for shape, (size, radius), x, y in itertools.product(SHAPES, RADIUS.items(), offsets, offsets):
    sharp = coverage(shape, pixels - x, (pixels - y)[:, None], radius * side)
    for blur in _BLURS:
      drawings.append(ndimage.gaussian_filter(sharp, blur * side) if blur else sharp)
      words.append((shape, size, float(x), float(y)))
  return _Bank(np.stack(drawings).astype(np.float32), tuple(words))


@dataclasses.dataclass(frozen=True)
class _Fit:
  """The best drawing: words, centre in pixels, where its patch lies, and how much it explains."""

  shape: str
  colour: int
  size: str
  x: float
  y: float
  patch: tuple[slice, slice]
  drawing: Float[np.ndarray, "W W"]
  share: float


def _peel(view: _View) -> list[_Fit]:
  """Fits the largest blob, takes its drawing away, and looks at what is left."""
  left = view.blob.copy()
  fits: list[_Fit] = []
  while len(fits) < _MOST:
    blob = _largest_blob(left, _MIN_AREA * view.side**2)
    if blob is None:
      break
    colour, box = blob
    fit = _fit(view, _bank(view.side, *_COARSE), colour, _starts(view, box), fits)
    left[fit.patch][_grown(fit.drawing > 0.02)] = -1
    fits.append(fit)
  return fits


def _largest_blob(left: np.ndarray, least: float) -> tuple[int, tuple[slice, slice]] | None:
  """Colour and box of the largest connected blob, None if all are smaller than `least` pixels."""
  best, found = least, None
  for colour in range(len(COLOURS)):
    mask = left == colour
    if mask.sum() < best:
      continue
    labels, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    areas = np.bincount(labels.ravel())[1:]
    if areas.max() >= best:
      best = areas.max()
      found = colour, ndimage.find_objects(labels)[int(areas.argmax())]
  return found


def _starts(view: _View, box: tuple[slice, slice]) -> list[tuple[int, int]]:
  """Corners of the patches to try: the blob's middle; a grid where it is too large for one object."""
  half = _width(view.side) // 2
  lows, highs = np.array([(s.start, s.stop) for s in box]).T
  if (highs - lows <= _MAX_BLOB * view.side).all():
    return [tuple(int(v) - half for v in (lows + highs) / 2)]
  rows, columns = (range(lo, hi, view.side // 16) for lo, hi in zip(lows, highs))
  return [(r - half, c - half) for r in rows for c in columns]


def _start(view: _View, x: float, y: float) -> tuple[int, int]:
  """Corner of the patch around a point."""
  half = _width(view.side) // 2
  return int(y) + view.margin - half, int(x) + view.margin - half


def _fit(
  view: _View,
  bank: _Bank,
  colour: int,
  starts: list[tuple[int, int]],
  others: Sequence[_Fit],
) -> _Fit:
  """The drawing in one of the patches that explains most, given what others explain already."""
  width = _width(view.side)
  cover = view.cover[colour].copy()
  weight = ((view.blob < 0) | (view.blob == colour)).astype(np.float32)
  for other in others:
    if other.colour == colour:
      cover[other.patch] -= other.drawing
    else:
      weight[other.patch][other.drawing > 0.02] = 0
  patches = [(slice(r, r + width), slice(c, c + width)) for r, c in starts]
  seen = np.stack([cover[p].ravel() for p in patches], axis=1)
  trust = np.stack([weight[p].ravel() for p in patches], axis=1)
  common, energy = bank.flat @ (trust * seen), bank.squares @ trust  # [N, patches]
  strength = np.clip(common / np.maximum(energy, 1e-6), *_STRENGTH)
  gain = 2 * strength * common - strength**2 * energy
  n, p = np.unravel_index(gain.argmax(), gain.shape)
  shape, size, x, y = bank.words[n]
  middle = width // 2 - view.margin + 0.5
  return _Fit(
    shape=shape,
    colour=colour,
    size=size,
    x=starts[p][1] + middle + x,
    y=starts[p][0] + middle + y,
    patch=patches[p],
    drawing=strength[n, p] * bank.drawings[n],
    share=float(gain[n, p] / max((trust[:, p] * seen[:, p] ** 2).sum(), 1e-6)),
  )


def _foreign(view: _View, fits: Sequence[_Fit]) -> float:
  """The share of the picture in blobs that no drawing explains."""
  odd = view.odd.copy()
  for fit in fits:
    odd[fit.patch][_grown(fit.drawing > 0.02)] = False
  labels, _ = ndimage.label(odd, structure=np.ones((3, 3)))
  areas = np.bincount(labels.ravel())[1:]
  return float(areas[areas >= _MIN_AREA * view.side**2].sum()) / view.side**2


def _grown(mask: Bool[np.ndarray, "W W"]) -> Bool[np.ndarray, "W W"]:
  """The mask and the pixels around it."""
  return ndimage.binary_dilation(mask, structure=np.ones((3, 3)))
