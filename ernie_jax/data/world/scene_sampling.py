"""How world scenes are drawn at random (`scene.py` says what a scene is)."""

import dataclasses

import numpy as np

from ernie_jax.data.world.scene import (
  COLOURS,
  GREYS,
  MAX_JITTER,
  MAX_SPEED_JITTER,
  NAMELESS_DISTANCE,
  PLACES,
  SHADES,
  SHAPES,
  SIGN_ALPHABET,
  SIGN_GRID,
  SIGN_HEIGHT,
  SIZES,
  SPEED,
  TEXTURES,
  Background,
  Described,
  Object,
  Scene,
  Sign,
  Split,
  is_held_out,
  motions_at,
  place_centre,
  sign_width,
  track,
)

_GAP = 0.02  # at least this between two boxes, along one axis, in every frame
_TRIES = 1000


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
    speed: shares of the side each frame that what moves goes.
    speed_jitter: relative change of it, at most.
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
  speed: float = SPEED
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
    if not SPEED * (1 - MAX_SPEED_JITTER) <= self.speed <= SPEED:
      least = SPEED * (1 - MAX_SPEED_JITTER)
      raise ValueError(f"speed must be between {least:g} and {SPEED}, got {self.speed}")
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
    speed = config.speed * (1 + _uniform(rng, config.speed_jitter))
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
