"""Documents of text and pictures about one scene that changes, from the world.

A *story* tells what comes and shows it: caption, picture, change, picture, perhaps change, picture. It can be
told in full from its text, so a program can judge its pictures. A *riddle* shows two pictures and then
says what changed. The changes: an object's colour, shape, size or place, one that comes, one that goes.
"""

import dataclasses

import numpy as np

from ernie_jax.data.world.language import caption
from ernie_jax.data.world.questions import reference
from ernie_jax.data.world.scene import COLOURS, PLACES, SHAPES, SIZES, Object, Scene, place_centre
from ernie_jax.data.world.scene_sampling import SceneConfig, sample_scene

_MOST_OBJECTS = 3
_TRIES = 1000


@dataclasses.dataclass(frozen=True)
class Story:
  """A document before its pictures are drawn: texts[0], scenes[0], texts[1], .. texts[n]."""

  texts: tuple[str, ...]
  scenes: tuple[Scene, ...]


def story(scene: Scene, config: SceneConfig, rng: np.random.Generator) -> Story:
  """Draws a document that starts from a picture's `scene`, without its sign.

  Args:
    scene: the first picture. Where it has no held-out object, all later ones are of its split.
    config: how an object that comes is drawn.
    rng: the only source of randomness.

  Raises:
    ValueError: `scene` is a video.
  """
  if scene.frames > 1:
    raise ValueError("documents are of pictures, not of videos")
  first = dataclasses.replace(scene, sign=None)
  if rng.integers(3) == 0:
    second, change = _change(first, config, rng)
    return Story(("first:", "then:", _sentence(change)), (first, second))
  scenes, texts = [first], [_sentence(caption(first, rng))]
  for _ in range(int(rng.integers(1, 3))):
    changed, change = _change(scenes[-1], config, rng)
    scenes.append(changed)
    texts.append(_sentence(change))
  return Story((*texts, ""), tuple(scenes))


def _sentence(text: str) -> str:
  return text.removesuffix(".") + "."


def _change(scene: Scene, config: SceneConfig, rng: np.random.Generator) -> tuple[Scene, str]:
  """The scene after one change that keeps to its split, and the words for it."""
  changes = (_recolour, _reshape, _resize, _move, _come, _go)
  for _ in range(_TRIES):
    changed = changes[rng.integers(len(changes))](scene, config, rng)
    if changed is None:
      continue
    objects, words = changed
    after = dataclasses.replace(scene, objects=tuple(objects))
    if scene.held_out or after.split == scene.split:
      return after, words
  raise RuntimeError(f"no change of a scene in {_TRIES} tries")


def _one(scene: Scene, rng: np.random.Generator, *, without: tuple[str, ...] = ()):
  """A random object with its name, or None if it has none."""
  thing = scene.objects[rng.integers(len(scene.objects))]
  named = reference(scene, thing, rng, without=without)
  return None if named is None else (thing, named)


def _replaced(scene: Scene, old: Object, **values) -> list[Object]:
  return [dataclasses.replace(o, **values) if o is old else o for o in scene.objects]


def _other(rng: np.random.Generator, options, than) -> str:
  rest = [option for option in options if option not in than]
  return rest[rng.integers(len(rest))]


def _recolour(scene: Scene, config: SceneConfig, rng: np.random.Generator):
  del config
  if (one := _one(scene, rng)) is None:
    return None
  thing, named = one
  colour = _other(rng, tuple(COLOURS), {thing.colour})
  # The same deviation from the new colour as from the old.
  levels = np.array(COLOURS[colour]) + np.array(thing.rgb) - np.array(COLOURS[thing.colour])
  rgb = tuple(int(level) for level in np.clip(levels, 0, 255))
  return _replaced(scene, thing, colour=colour, rgb=rgb), f"{named} turns {colour}"


def _reshape(scene: Scene, config: SceneConfig, rng: np.random.Generator):
  del config
  if (one := _one(scene, rng)) is None:
    return None
  thing, named = one
  shape = _other(rng, SHAPES, {thing.shape})
  return _replaced(scene, thing, shape=shape), f"{named} turns into a {shape}"


def _resize(scene: Scene, config: SceneConfig, rng: np.random.Generator):
  del config
  if (one := _one(scene, rng)) is None:
    return None
  thing, named = one
  size = _other(rng, SIZES, {thing.size})
  return _replaced(scene, thing, size=size), f"{named} becomes {size}"


def _move(scene: Scene, config: SceneConfig, rng: np.random.Generator):
  del config
  if (one := _one(scene, rng, without=("place",))) is None:
    return None
  thing, named = one
  place = _other(rng, PLACES, {other.place for other in scene.objects})
  old, new = np.array(place_centre(thing.place)), np.array(place_centre(place))
  x, y = (float(v) for v in np.array([thing.x, thing.y]) - old + new)
  return _replaced(scene, thing, place=place, x=x, y=y), f"{named} moves to the {place}"


def _come(scene: Scene, config: SceneConfig, rng: np.random.Generator):
  if len(scene.objects) == _MOST_OBJECTS:
    return None
  alone = dataclasses.replace(config, min_objects=1, max_objects=1, sign_probability=0.0)
  (thing,) = sample_scene(rng, alone).objects
  if thing.place in {other.place for other in scene.objects}:
    return None
  words = f"a {thing.size} {thing.colour} {thing.shape} comes at the {thing.place}"
  return [*scene.objects, thing], words


def _go(scene: Scene, config: SceneConfig, rng: np.random.Generator):
  del config
  if len(scene.objects) == 1 or (one := _one(scene, rng)) is None:
    return None
  thing, named = one
  return [other for other in scene.objects if other is not thing], f"{named} goes away"
