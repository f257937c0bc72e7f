"""The state of a world scene, and which scenes are never drawn for training.

A scene says everything a picture, a caption or an answer needs: `render` turns it into pixels and
`language` into words, so each can be checked against the other by a program. Coordinates are shares of
the picture's side, x to the right and y down; a place is one of nine equal cells. An image is a scene
of one frame.

What never occurs in training: some pairs of shape and colour (`is_held_out`), and one in six of all other
scenes (`Scene.split`), since there are few of one thing: 450 without jitter.
"""

import dataclasses
import json
import zlib
from typing import Literal

import numpy as np
from jaxtyping import Float

from ernie_jax import config as config_lib

SHAPES = ("circle", "square", "triangle", "cross", "ring")
SIZES = ("small", "large")
PLACES = (
  "top left",
  "top",
  "top right",
  "left",
  "centre",
  "right",
  "bottom left",
  "bottom",
  "bottom right",
)  # row by row
MOTIONS = ("still", "left", "right", "up", "down")
SHADES = ("dark", "light")
TEXTURES = ("plain", "striped", "checked", "dotted")

# Far from each other (115 levels at least) and from the greys of the backgrounds.
COLOURS = {
  "red": (225, 40, 40),
  "green": (40, 170, 60),
  "blue": (50, 80, 230),
  "yellow": (240, 210, 40),
  "purple": (190, 50, 210),
  "cyan": (40, 205, 215),
}
GREYS = {"dark": 60, "light": 190}
# Levels in some channel, before jitter, between a colour without a name and any that has one, or a grey.
NAMELESS_DISTANCE = 60
TEXTURE_CONTRAST = 12  # levels above and below the grey: less than any object's contrast

# Half of the sides of the box around a shape. Two large ones in neighbouring cells stay apart by a
# pixel of 32 at the default jitter; a small one is six pixels wide there.
RADIUS = {"small": 0.09, "large": 0.135}
DIRECTIONS = {"still": (0, 0), "left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
SPEED = 0.035  # of the side each frame: nine frames cross most of a cell
MAX_JITTER = 0.03  # beyond it, neighbours could touch
MAX_SPEED_JITTER = 0.2  # beyond it, the border could be reached within nine frames

# Characters whose glyphs in the 3 x 5 font differ by two pixels at least.
SIGN_ALPHABET = "ACEFHJKLNPTUXY12347"
SIGN_GRID = 32  # a sign lies on this grid, so that its glyphs are sharp at multiples of 32 pixels
SIGN_HEIGHT = 7

Split = Literal["train", "validation", "held_out"]
_VALIDATION = 6  # one in so many scenes of seen pairs is never drawn for training


def sign_width(characters: int) -> int:
  """Columns of `SIGN_GRID` that a sign takes: three a glyph, one between and one around."""
  return 4 * characters + 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Described:
  """An object as far as words fix it; None is what they leave open.

  Attributes:
    shape, colour, size: of `SHAPES`, `COLOURS`, `SIZES`; a thing that is there can have a colour without a name.
    place: of `PLACES`; in a video, where it starts.
    motion: of `MOTIONS`; the direction it starts in.
  """

  shape: str | None = None
  colour: str | None = None
  size: str | None = None
  place: str | None = None
  motion: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Object(Described):
  """An object of a scene: every word fixed but perhaps the colour's, and what words do not say.

  Attributes:
    x, y: centre in the first frame.
    speed: shares of the side each frame; 0 when still.
    rgb: its colour after jitter, 0 to 255.
  """

  x: float
  y: float
  speed: float = 0.0
  rgb: tuple[int, ...]

  @property
  def radius(self) -> float:
    """Half of the side of the box around it."""
    return RADIUS[self.size]

  def described(self) -> Described:
    """The words alone."""
    return Described(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Described)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Background:
  """What lies behind.

  Attributes:
    shade, texture: of `SHADES`, `TEXTURES`.
    grey: level after jitter, 0 to 255; a texture adds and takes `TEXTURE_CONTRAST`.
    phase: of the texture, a share of its period.
  """

  shade: str
  texture: str
  grey: int
  phase: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sign:
  """A white card with dark text.

  Attributes:
    text: one to three of `SIGN_ALPHABET`.
    place: of `PLACES`: the cell it is centred on, or as near as it fits.
    column, row: its top left corner on the `SIGN_GRID`.
  """

  text: str
  place: str
  column: int
  row: int

  @property
  def box(self) -> tuple[float, float, float, float]:
    """x, y of its centre and half of its width and height, in shares of the side."""
    half_w, half_h = sign_width(len(self.text)) / 2, SIGN_HEIGHT / 2
    values = (self.column + half_w, self.row + half_h, half_w, half_h)
    return tuple(v / SIGN_GRID for v in values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
  """One to three objects before a background, perhaps a sign; `frames` is 1 for an image."""

  objects: tuple[Object, ...]
  background: Background
  sign: Sign | None = None
  frames: int = 1

  @property
  def held_out(self) -> bool:
    """Whether any of its objects never occurs in training."""
    return any(map(is_held_out, self.objects))

  @property
  def split(self) -> Split:
    """The one split that may draw it.

    That follows from what its objects are and where they start. Motion, sign, background and jitter do not count:
    no picture, and no first frame of a video, is on both sides.
    """
    if self.held_out:
      return "held_out"
    things = sorted(f"{o.size} {o.colour} {o.shape} {o.place}" for o in self.objects)
    number = zlib.crc32(";".join(things).encode())
    return "validation" if number % _VALIDATION == 0 else "train"

  def to_json(self) -> str:
    """One line that `scene_from_json` reads."""
    return json.dumps(config_lib.to_dict(self))


def scene_from_json(text: str | bytes) -> Scene:
  """The scene that `Scene.to_json` wrote.

  Raises:
    UserError: it names an unknown key, lacks one, or one has the wrong type.
  """
  return config_lib.build(Scene, json.loads(text), path="scene")


def is_held_out(thing: Described) -> bool:
  """Whether this pair of shape and colour never occurs in training.

  Each shape lacks one colour, and no two shapes the same, so that every shape and every colour is seen
  in other pairs (5 of 30 pairs).
  """
  if thing.shape is None or thing.colour is None:
    return False
  return (SHAPES.index(thing.shape) + 1) % len(COLOURS) == list(COLOURS).index(thing.colour)


def place_of(x: float, y: float) -> str:
  """The cell around a point; outside of the picture, the nearest."""
  column, row = (min(max(int(3 * v), 0), 2) for v in (x, y))
  return PLACES[3 * row + column]


def place_centre(place: str) -> tuple[float, float]:
  """x and y of the middle of a cell."""
  row, column = divmod(PLACES.index(place), 3)
  return (2 * column + 1) / 6, (2 * row + 1) / 6


def motions_at(place: str) -> tuple[str, ...]:
  """The motions that may start in a cell: none towards a border that it touches.

  So nothing turns back within the first nine frames, and a direction can be seen.
  """
  x, y = place_centre(place)
  return tuple(
    name for name, (dx, dy) in DIRECTIONS.items() if 0 < x + dx / 3 < 1 and 0 < y + dy / 3 < 1
  )


def track(thing: Object, frames: int) -> Float[np.ndarray, "T 2"]:
  """Centres (x, y) of an object in each frame: constant speed, turning back at the border."""
  start = np.array([thing.x, thing.y])
  steps = np.arange(frames)[:, None] * thing.speed * np.array(DIRECTIONS[thing.motion])
  low, room = thing.radius, 1 - 2 * thing.radius
  return low + room - np.abs((start + steps - low) % (2 * room) - room)
