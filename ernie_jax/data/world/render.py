"""Scenes as pixels: anti-aliased shapes and a small sign before a plain or textured background.

Coverage of a pixel is its signed distance to the shape's edge, clipped to one pixel: exact for straight
edges along the axes, within a few levels elsewhere, and cheap enough that thousands of 32-pixel pictures
a second need no file. The oracles draw their guesses with the same `coverage`.

Letters: T frames, S side, W width of a patch around an object.
"""

import functools

import numpy as np
from jaxtyping import Bool, Float, UInt8

from ernie_jax.data.world.scene import (
  SIGN_GRID,
  SIGN_HEIGHT,
  TEXTURE_CONTRAST,
  Background,
  Object,
  Scene,
  Sign,
  sign_width,
  track,
)
from ernie_jax.errors import UserError

SIGN_PAPER, SIGN_INK = 250, 10  # levels
# Of a ring's radius. With half, the bits of a ring and a circle differed in 8 to 19 places of a thousand, where any other
# two shapes differ in 17 to 67, and models that drew took one for the other; with 0.65 a small ring's line is a pixel of 32
# wide, and was lost in some frames that the tokenizer rebuilt.
RING_HOLE = 0.6
_TEXTURE_PERIOD = 0.125  # of the side: four pixels of 32

# Three columns, five rows.
_GLYPHS = {
  "A": ".#. #.# ### #.# #.#",
  "C": "### #.. #.. #.. ###",
  "E": "### #.. ### #.. ###",
  "F": "### #.. ##. #.. #..",
  "H": "#.# #.# ### #.# #.#",
  "J": "..# ..# ..# #.# ###",
  "K": "#.# ##. #.. ##. #.#",
  "L": "#.. #.. #.. #.. ###",
  "N": "##. #.# #.# #.# #.#",
  "P": "### #.# ### #.. #..",
  "T": "### .#. .#. .#. .#.",
  "U": "#.# #.# #.# #.# ###",
  "X": "#.# #.# .#. #.# #.#",
  "Y": "#.# #.# .#. .#. .#.",
  "1": ".#. ##. .#. .#. ###",
  "2": "### ..# ### #.. ###",
  "3": "### ..# .## ..# ###",
  "4": "#.# #.# ### ..# ..#",
  "7": "### ..# ..# .#. .#.",
}


def render(scene: Scene, side: int) -> UInt8[np.ndarray, "T S S 3"]:
  """Draws every frame of a scene.

  Args:
    scene: what to draw.
    side: of the picture in pixels, a multiple of 32.

  Raises:
    UserError: the side is not a multiple of 32, on whose grid the signs lie.
  """
  if side < SIGN_GRID or side % SIGN_GRID:
    raise UserError(f"side must be a multiple of {SIGN_GRID} pixels, got {side}")
  margin = side // 8 + 2  # a patch may reach beyond the picture
  canvas = np.zeros((scene.frames, side + 2 * margin, side + 2 * margin, 3), np.float32)
  inside = canvas[:, margin:-margin, margin:-margin]
  inside[:] = _background(scene.background, side)[..., None]
  if scene.sign is not None:
    rows, columns, levels = _sign(scene.sign, side)
    inside[:, rows, columns] = levels[..., None]
  for thing in scene.objects:
    _draw(canvas, thing, side, margin)
  return np.rint(inside).astype(np.uint8)


def coverage(
  shape: str,
  dx: Float[np.ndarray, "..."],
  dy: Float[np.ndarray, "..."],
  radius: float,
) -> Float[np.ndarray, "..."]:
  """The share of each pixel that a shape covers.

  Args:
    shape: of `scene.SHAPES`.
    dx, dy: pixel centres relative to the object's centre, in pixels (y down).
    radius: half of the side of the box around it, in pixels.
  """
  x, y = np.abs(dx), np.abs(dy)
  if shape == "circle":
    distance = np.hypot(x, y) - radius
  elif shape == "ring":
    from_centre = np.hypot(x, y)
    distance = np.maximum(from_centre - radius, RING_HOLE * radius - from_centre)
  elif shape == "square":
    distance = np.maximum(x, y) - radius
  elif shape == "cross":
    distance = np.maximum(np.maximum(x, y) - radius, np.minimum(x, y) - 0.33 * radius)
  elif shape == "triangle":  # its tip up, at the top of the box
    distance = np.maximum(dy - radius, (2 * x - dy - radius) / 5**0.5)
  else:
    raise ValueError(f"no such shape: {shape}")
  return np.clip(0.5 - distance, 0, 1)


@functools.cache
def sign_bitmap(text: str) -> Bool[np.ndarray, "rows columns"]:
  """Where a sign has ink, one value for each point of the `SIGN_GRID`."""
  ink = np.zeros((SIGN_HEIGHT, sign_width(len(text))), bool)
  for i, character in enumerate(text):
    glyph = [[dot == "#" for dot in row] for row in _GLYPHS[character].split()]
    ink[1:-1, 4 * i + 1 : 4 * i + 4] = glyph
  ink.setflags(write=False)
  return ink


def _draw(canvas: np.ndarray, thing: Object, side: int, margin: int) -> None:
  """Blends an object into every frame of the padded canvas."""
  radius = thing.radius * side
  reach = int(np.ceil(radius)) + 1
  centres = (track(thing, len(canvas)) if thing.speed else track(thing, 1)) * side
  corners = np.floor(centres).astype(int) - reach
  offsets = (np.arange(2 * reach + 1) + 0.5 + corners[..., None] - centres[..., None]).astype(
    np.float32
  )  # [T, 2, W]
  alpha = coverage(thing.shape, offsets[:, 0, None, :], offsets[:, 1, :, None], radius)[..., None]
  colour = np.array(thing.rgb, np.float32)
  still = len(corners) == 1
  for t, (column, row) in enumerate(corners + margin):
    frames = slice(None) if still else t
    patch = canvas[frames, row : row + 2 * reach + 1, column : column + 2 * reach + 1]
    patch += alpha[t] * (colour - patch)


def _background(background: Background, side: int) -> Float[np.ndarray, "S S"]:
  texture = _texture(background.texture, background.phase, side)
  return background.grey + TEXTURE_CONTRAST * texture


@functools.lru_cache(maxsize=256)
def _texture(name: str, phase: float, side: int) -> Float[np.ndarray, "S S"]:
  """A pattern between -1 and 1."""
  angle = 2 * np.pi * ((np.arange(side, dtype=np.float32) + 0.5) / side / _TEXTURE_PERIOD + phase)
  wave, other = np.sin(angle), np.cos(angle)
  if name == "plain":
    field = np.zeros((side, side), np.float32)
  elif name == "striped":
    field = np.broadcast_to(np.clip(2 * wave[:, None], -1, 1), (side, side))
  elif name == "checked":
    field = np.clip(4 * np.sin(angle / 2)[:, None] * np.sin(angle / 2), -1, 1)
  elif name == "dotted":
    field = np.clip(4 * (wave[:, None] + other - 1), -1, 1)
  else:
    raise ValueError(f"no such texture: {name}")
  field = field.astype(np.float32)
  field.setflags(write=False)
  return field


def _sign(sign: Sign, side: int) -> tuple[slice, slice, np.ndarray]:
  """Rows and columns of a sign, and its levels there."""
  scale = side // SIGN_GRID
  ink = np.kron(sign_bitmap(sign.text), np.ones((scale, scale), bool))
  rows = slice(scale * sign.row, scale * sign.row + ink.shape[0])
  columns = slice(scale * sign.column, scale * sign.column + ink.shape[1])
  return rows, columns, np.where(ink, SIGN_INK, SIGN_PAPER).astype(np.float32)
