import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_jax.data.world.patch_labels import (
  ATTRIBUTES,
  NOTHING,
  UNKNOWN,
  LabelledBatches,
  LabelledConfig,
  patch_labels,
)
from ernie_jax.data.world.render import render
from ernie_jax.data.world.scene import Background, Object, Scene, place_of, track
from ernie_jax.data.world.scene_sampling import SceneConfig, sample_scene
from ernie_jax.data.world.scenes import WorldSource

DARK = Background(shade="dark", texture="plain", grey=60)
SQUARE = Object(
  shape="square",
  colour="red",
  size="large",
  place="centre",
  motion="still",
  x=0.5,
  y=0.5,
  rgb=(225, 40, 40),
)


def named(labels, attribute):
  return labels[:, list(ATTRIBUTES).index(attribute)]


def test_patches_are_named_by_what_lies_there():
  labels = patch_labels(Scene(objects=(SQUARE,), background=DARK), 32, 4)
  assert labels.shape == (1, 4, 8, 8)
  there = np.zeros((8, 8), bool)
  there[2:6, 2:6] = (
    True  # 4.3 pixels from the middle, so a thirteenth of a patch around the inner four
  )
  for attribute, value in dict(shape="square", colour="red", size="large", place="centre").items():
    index = 1 + ATTRIBUTES[attribute].index(value)
    np.testing.assert_array_equal(named(labels, attribute)[0], np.where(there, index, NOTHING))


def test_a_colour_without_a_name_is_unknown_and_its_shape_is_not():
  thing = dataclasses.replace(SQUARE, colour=None)
  labels = patch_labels(Scene(objects=(thing,), background=DARK), 32, 4)
  assert set(np.unique(named(labels, "colour"))) == {NOTHING, UNKNOWN}
  assert UNKNOWN not in named(labels, "shape")


def test_the_place_of_a_moving_thing_is_that_of_the_frame():
  mover = dataclasses.replace(SQUARE, place="left", motion="right", x=1 / 6, speed=1 / 12)
  scene = Scene(objects=(mover,), background=DARK, frames=9)
  places = [set(frame[frame != NOTHING]) for frame in named(patch_labels(scene, 32, 4), "place")]
  index = 1 + ATTRIBUTES["place"].index("left")
  assert places[0] == {index} and places[-1] != {index} and all(len(p) == 1 for p in places)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), frames=st.sampled_from([1, 9]), side=st.sampled_from([32, 64]))
def test_labels_stand_where_the_rendered_pixels_differ_from_the_background(seed, frames, side):
  plain = SceneConfig(
    frames=frames, max_objects=2, shades=("dark",), texture_probability=0.0, colour_jitter=0
  )
  scene = sample_scene(np.random.default_rng(seed), plain)
  labels = patch_labels(scene, side, side // 8)
  changed = np.abs(render(scene, side).astype(int) - 60).max(-1)
  coloured = changed.reshape(frames, 8, side // 8, 8, side // 8).mean((2, 4))
  assert (coloured[named(labels, "shape") > NOTHING] > 0).all()
  # At most a fiftieth of either thing, 190 levels from the background, and rounding.
  assert (coloured[named(labels, "shape") == NOTHING] < 2 * 0.02 * 190 + 1).all()
  for t, frame in enumerate(labels):
    found = {
      tuple(values) for values in frame.reshape(len(ATTRIBUTES), -1).T if values[0] != NOTHING
    }
    placed = [
      dataclasses.replace(thing, place=place_of(*track(thing, frames)[t]))
      for thing in scene.objects
    ]
    wanted = {
      tuple(1 + known.index(getattr(thing, name)) for name, known in ATTRIBUTES.items())
      for thing in placed
    }
    assert found == wanted


def test_a_patch_of_two_things_is_that_of_the_larger_share():
  left = dataclasses.replace(SQUARE, x=0.3)
  right = dataclasses.replace(SQUARE, shape="circle", x=0.62)
  labels = named(patch_labels(Scene(objects=(left, right), background=DARK), 32, 32), "shape")
  assert labels.item() == 1 + ATTRIBUTES["shape"].index("square")  # a circle covers less
  other = patch_labels(Scene(objects=(right, left), background=DARK), 32, 32)
  assert named(other, "shape").item() == labels.item()


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  world = WorldSource(
    scene=SceneConfig(frames=5), train=6, validation=2, held_out=2, captions=1, documents=0.0
  )
  folder = str(tmp_path_factory.mktemp("labelled"))
  return LabelledConfig(worlds=(world,), rows_per_batch=8, data_dir=folder)


def test_batches_hold_frames_with_their_own_labels(config):
  batches = LabelledBatches(config, "train", 4)
  batch, state = next(batches), batches.get_state()
  assert batch.pixels.shape == (8, 32, 32, 3) and batch.labels.shape == (8, 4, 8, 8)
  after = next(batches)
  batches.close()
  again = LabelledBatches(config, "train", 4)
  again.set_state(state)
  np.testing.assert_array_equal(next(again).labels, after.labels)
  again.close()
  half = LabelledBatches(config, "train", 4, host=1, hosts=2)
  np.testing.assert_array_equal(next(half).pixels, batch.pixels[4:])
  half.close()


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"rows_per_batch": 0}, "rows_per_batch must be at least 1"),
    ({"worlds": ()}, "worlds must be at least one"),
    ({"worlds": (WorldSource(), WorldSource(side=64))}, "all of the same side"),
    ({"seed": -1}, "seed must not be negative"),
  ],
)
def test_impossible_values_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    LabelledConfig(**change)
