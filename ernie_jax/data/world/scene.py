"""The state of a world scene, how scenes are drawn at random, and which are never drawn for training.

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
_GAP = 0.02  # at least this between two boxes, along one axis, in every frame

# Characters whose glyphs in the 3 x 5 font differ by two pixels at least.
SIGN_ALPHABET = "ACEFHJKLNPTUXY12347"
SIGN_GRID = 32  # a sign lies on this grid, so that its glyphs are sharp at multiples of 32 pixels
SIGN_HEIGHT = 7
_TRIES = 1000

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneConfig:
  """How scenes are drawn. Every nuisance can be turned off: continuous ones cost training time.

  Attributes:
    frames: 1, or 1 + 4n for videos.
    min_objects, max_objects: how many, uniformly; 1 to 3.
    position_jitter: of a centre from its cell's middle, at most, as a share of the side.
    colour_jitter: of each channel, at most, in levels; of the background's grey too.
    shades: of backgrounds, of `SHADES`. No caption says the shade, so with more than one a model that draws
      has to guess it, the same in every bit.
    texture_probability: of a background that is not plain.
    sign_probability: of a sign.
    sign_alphabet: its characters, of `SIGN_ALPHABET`.
    sign_lengths: how many of them, each number equally often; 1 to 3.
    nameless: all colours are such as no word names (`NAMELESS_DISTANCE`): shapes as such, to be asked about.
    moving_probability: of each object in a video to move.
    speed_jitter: relative change of `SPEED`, at most.
  """

  frames: int = 1
  min_objects: int = 1
  max_objects: int = 3
  position_jitter: float = 0.02
  colour_jitter: int = 8
  shades: tuple[str, ...] = SHADES
  texture_probability: float = 0.25
  sign_probability: float = 0.0
  sign_alphabet: str = SIGN_ALPHABET
  sign_lengths: tuple[int, ...] = (2, 3)
  nameless: bool = False
  moving_probability: float = 0.75
  speed_jitter: float = 0.0

  def __post_init__(self):
    if self.frames < 1 or self.frames % 4 != 1:
      raise ValueError(f"frames must be 1 + 4n, got {self.frames}")
    if not 1 <= self.min_objects <= self.max_objects <= 3:
      raise ValueError(
        f"min_objects {self.min_objects} and max_objects {self.max_objects} must be 1 to 3, in order"
      )
    if not self.shades or not set(self.shades) <= set(SHADES):
      raise ValueError(f"shades must be some of {', '.join(SHADES)}, got {list(self.shades)}")
    if not self.sign_alphabet or not set(self.sign_alphabet) <= set(SIGN_ALPHABET):
      raise ValueError(f"sign_alphabet must be some of {SIGN_ALPHABET}, got {self.sign_alphabet!r}")
    if not self.sign_lengths or not set(self.sign_lengths) <= {1, 2, 3}:
      raise ValueError(f"sign_lengths must be 1, 2 or 3, got {list(self.sign_lengths)}")
    limits = {
      "position_jitter": MAX_JITTER,
      "colour_jitter": 20,
      "texture_probability": 1,
      "sign_probability": 1,
      "moving_probability": 1,
      "speed_jitter": MAX_SPEED_JITTER,
    }
    for name, most in limits.items():
      if not 0 <= getattr(self, name) <= most:
        raise ValueError(f"{name} must be between 0 and {most}, got {getattr(self, name)}")


def sample_scene(rng: np.random.Generator, config: SceneConfig, *, split: Split = "train") -> Scene:
  """Draws a scene.

  Objects start in different cells, and neither they nor the sign touch in any frame: what would is drawn
  again, and so is what belongs to another split.

  Args:
    rng: the only source of randomness.
    config: how.
    split: see `Scene.split`: "held_out" has at least one object that never occurs in training, the others none.
      Colours without names make no such pair: there, "held_out" is "validation".
  """
  if config.nameless and split == "held_out":
    split = "validation"
  count = int(rng.integers(config.min_objects, config.max_objects + 1))
  with_sign = rng.random() < config.sign_probability
  for _ in range(_TRIES):
    objects = _sample_objects(rng, config, count, split)
    sign = _sample_sign(rng, objects, config) if with_sign else None
    if _apart(objects, config.frames) and (sign is not None) == with_sign:
      background = _sample_background(rng, config)
      scene = Scene(objects=objects, background=background, sign=sign, frames=config.frames)
      if scene.split == split:
        return scene
  raise RuntimeError(f"no scene of {count} objects fits in {_TRIES} tries")


def _sample_objects(rng, config: SceneConfig, count: int, split: Split) -> tuple[Object, ...]:
  places = rng.permutation(len(PLACES))[:count]
  held_out = int(rng.integers(count)) if split == "held_out" else -1
  objects = []
  for i, place in enumerate(places):
    shape, colour = _sample_pair(rng, split, must=i == held_out)
    if config.nameless:
      shape, colour = _choose(rng, SHAPES), None
    objects.append(_sample_object(rng, config, shape, colour, PLACES[place]))
  return tuple(objects)


def _sample_pair(rng, split: Split, *, must: bool) -> tuple[str, str]:
  """Shape and colour: held out if it must, any in the held-out split, else one that is seen."""
  while True:
    shape, colour = _choose(rng, SHAPES), _choose(rng, tuple(COLOURS))
    allowed = split == "held_out" and not must
    if allowed or is_held_out(Described(shape=shape, colour=colour)) == must:
      return shape, colour


def _sample_object(rng, config: SceneConfig, shape: str, colour: str | None, place: str) -> Object:
  motion, speed = "still", 0.0
  if config.frames > 1 and rng.random() < config.moving_probability:
    motion = _choose(rng, tuple(m for m in motions_at(place) if m != "still"))
    speed = SPEED * (1 + _uniform(rng, config.speed_jitter))
  x, y = (centre + _uniform(rng, config.position_jitter) for centre in place_centre(place))
  levels = COLOURS[colour] if colour else _nameless_colour(rng)
  return Object(
    shape=shape,
    colour=colour,
    size=_choose(rng, SIZES),
    place=place,
    motion=motion,
    x=x,
    y=y,
    speed=speed,
    rgb=tuple(_jitter(rng, level, config.colour_jitter) for level in levels),
  )


def _nameless_colour(rng) -> tuple[int, ...]:
  named = np.array([*COLOURS.values(), *([grey] * 3 for grey in GREYS.values())])
  while True:
    levels = rng.integers(256, size=3)
    if (np.abs(named - levels).max(axis=-1) >= NAMELESS_DISTANCE).all():
      return tuple(levels.tolist())


def _sample_background(rng, config: SceneConfig) -> Background:
  textured = rng.random() < config.texture_probability
  shade = _choose(rng, config.shades)
  return Background(
    shade=shade,
    texture=_choose(rng, TEXTURES[1:]) if textured else TEXTURES[0],
    grey=_jitter(rng, GREYS[shade], config.colour_jitter),
    phase=float(rng.integers(4)) / 4 if textured else 0.0,
  )


def _sample_sign(rng, objects: tuple[Object, ...], config: SceneConfig) -> Sign | None:
  """A sign in a cell where it touches no object in any frame; None if there is no such cell."""
  characters = _choose(rng, config.sign_lengths)
  text = "".join(_choose(rng, config.sign_alphabet) for _ in range(characters))
  size = np.array([sign_width(characters), SIGN_HEIGHT])
  tracks = [(thing.radius, track(thing, config.frames)) for thing in objects]
  for i in rng.permutation(len(PLACES)):
    corner = np.round(np.array(place_centre(PLACES[i])) * SIGN_GRID - size / 2).astype(int)
    column, row = (int(v) for v in np.clip(corner, 1, SIGN_GRID - 1 - size))
    sign = Sign(text=text, place=PLACES[i], column=column, row=row)
    x, y, half_w, half_h = sign.box
    if not any(
      (np.abs(centres - (x, y)) < np.array([half_w, half_h]) + radius + _GAP).all(-1).any()
      for radius, centres in tracks
    ):
      return sign
  return None


def _apart(objects: tuple[Object, ...], frames: int) -> bool:
  """Whether no two boxes come nearer than the gap in any frame."""
  tracks = [track(thing, frames) for thing in objects]
  for i, first in enumerate(objects):
    for j, second in enumerate(objects[:i]):
      reach = first.radius + second.radius + _GAP
      if (np.abs(tracks[i] - tracks[j]).max(-1) < reach).any():
        return False
  return True


def _choose(rng, options):
  return options[int(rng.integers(len(options)))]


def _uniform(rng, most: float) -> float:
  return float(rng.uniform(-most, most))


def _jitter(rng, level: int, most: int) -> int:
  return int(np.clip(level + rng.integers(-most, most + 1), 0, 255))
