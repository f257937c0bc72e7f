import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_jax import config as config_lib
from ernie_jax.data.world import scene as scene_lib
from ernie_jax.data.world.scene import (
  COLOURS,
  PLACES,
  SHAPES,
  SIZES,
  Described,
  is_held_out,
  motions_at,
  place_centre,
  place_of,
  scene_from_json,
  track,
)
from ernie_jax.data.world.scene_sampling import SceneConfig, sample_scene
from ernie_jax.errors import UserError

configs = st.builds(
  SceneConfig,
  frames=st.sampled_from([1, 5, 9, 17]),
  sign_probability=st.sampled_from([0.0, 1.0]),
  position_jitter=st.sampled_from([0.0, 0.02, scene_lib.MAX_JITTER]),
  speed=st.sampled_from([1 / 32, scene_lib.SPEED]),
  speed_jitter=st.sampled_from([0.0, scene_lib.MAX_SPEED_JITTER]),
  shades=st.sampled_from([("dark",), ("light",), scene_lib.SHADES]),
  sign_alphabet=st.sampled_from([scene_lib.SIGN_ALPHABET, "A", "X17"]),
  sign_lengths=st.sampled_from([(2, 3), (1,), (1, 3)]),
)


@settings(deadline=None, max_examples=50)
@given(
  config=configs,
  seed=st.integers(0, 10**6),
  split=st.sampled_from(["train", "validation", "held_out"]),
)
def test_a_scene_keeps_its_rules(config, seed, split):
  scene = sample_scene(np.random.default_rng(seed), config, split=split)
  assert scene.split == split and scene.held_out == (split == "held_out")
  assert scene.background.shade in config.shades
  assert config.min_objects <= len(scene.objects) <= config.max_objects
  assert len({o.place for o in scene.objects}) == len(scene.objects)
  tracks = [track(o, scene.frames) for o in scene.objects]
  for i, o in enumerate(scene.objects):
    assert place_of(o.x, o.y) == o.place
    assert o.motion in motions_at(o.place)
    assert (tracks[i] >= o.radius - 1e-9).all() and (tracks[i] <= 1 - o.radius + 1e-9).all()
    for j in range(i):
      apart = np.abs(tracks[i] - tracks[j]).max(-1) - o.radius - scene.objects[j].radius
      assert (apart > 0).all()
  assert (scene.sign is not None) == (config.sign_probability == 1)
  if scene.sign is not None:
    assert len(scene.sign.text) in config.sign_lengths
    assert set(scene.sign.text) <= set(config.sign_alphabet)
    x, y, half_w, half_h = scene.sign.box
    assert half_w <= x <= 1 - half_w and half_h <= y <= 1 - half_h
    for o, centres in zip(scene.objects, tracks):
      assert (np.abs(centres - (x, y)) > np.array([half_w, half_h]) + o.radius).any(-1).all()


@settings(deadline=None, max_examples=30)
@given(config=configs, seed=st.integers(0, 10**6))
def test_json_gives_the_same_scene(config, seed):
  scene = sample_scene(np.random.default_rng(seed), config)
  assert scene_from_json(scene.to_json()) == scene


def test_the_same_seed_gives_the_same_scene():
  one, two = (sample_scene(np.random.default_rng(3), SceneConfig(frames=9)) for _ in range(2))
  assert one == two


def test_every_shape_and_colour_is_seen_in_most_pairs():
  seen = [(s, c) for s in SHAPES for c in COLOURS if not is_held_out(Described(shape=s, colour=c))]
  for shape in SHAPES:
    assert sum(s == shape for s, _ in seen) == len(COLOURS) - 1
  for colour in COLOURS:
    assert sum(c == colour for _, c in seen) >= len(SHAPES) - 1


def test_every_seen_pair_and_every_held_out_pair_is_drawn():
  drawn = {"train": set(), "held_out": set()}
  for split, pairs in drawn.items():
    for seed in range(400):
      scene = sample_scene(np.random.default_rng(seed), SceneConfig(), split=split)
      pairs |= {(o.shape, o.colour) for o in scene.objects}
  every = {(s, c) for s in SHAPES for c in COLOURS}
  held_out = {(s, c) for s, c in every if is_held_out(Described(shape=s, colour=c))}
  assert drawn["train"] == every - held_out
  assert drawn["held_out"] == every


def test_which_split_draws_a_scene_is_not_told_by_one_word_of_it():
  drawn = [
    sample_scene(np.random.default_rng(seed), SceneConfig(max_objects=1), split="validation")
    for seed in range(400)
  ]
  things = [scene.objects[0] for scene in drawn]
  seen = {(s, c) for s in SHAPES for c in COLOURS if not is_held_out(Described(shape=s, colour=c))}
  assert {(o.shape, o.colour) for o in things} == seen
  assert {o.place for o in things} == set(PLACES) and {o.size for o in things} == set(SIZES)


def test_without_nuisance_objects_sit_on_their_cells_in_pure_colours():
  config = SceneConfig(position_jitter=0.0, colour_jitter=0, texture_probability=0.0)
  for seed in range(20):
    scene = sample_scene(np.random.default_rng(seed), config)
    assert scene.background.texture == "plain"
    assert scene.background.grey == scene_lib.GREYS[scene.background.shade]
    for o in scene.objects:
      assert (o.x, o.y) == place_centre(o.place) and o.rgb == COLOURS[o.colour]


def test_a_moving_object_turns_back_at_the_border():
  place = PLACES[3]
  x, y = place_centre(place)
  thing = scene_lib.Object(
    shape="circle", colour="red", size="small", place=place, motion="right", x=x, y=y,
    speed=0.05, rgb=(255, 0, 0),
  )  # fmt: skip
  xs = track(thing, 25)[:, 0]
  steps = np.diff(xs)
  assert steps[0] == pytest.approx(0.05) and steps[-1] == pytest.approx(-0.05)
  assert xs.max() <= 1 - thing.radius + 1e-9


def test_nothing_turns_back_within_nine_frames():
  for seed in range(100):
    scene = sample_scene(
      np.random.default_rng(seed),
      SceneConfig(
        frames=9,
        moving_probability=1.0,
        position_jitter=scene_lib.MAX_JITTER,
        speed_jitter=scene_lib.MAX_SPEED_JITTER,
      ),
    )
    for o in scene.objects:
      steps = np.diff(track(o, 9), axis=0)
      assert np.allclose(steps, steps[0])


@pytest.mark.parametrize(
  ("key", "value"),
  [
    ("frames", 4),
    ("max_objects", 4),
    ("min_objects", 0),
    ("position_jitter", 0.1),
    ("speed", 0.05),
    ("speed", 0.0),
    ("texture_probability", 1.5),
    ("shades", []),
    ("shades", ["pink"]),
    ("sign_alphabet", ""),
    ("sign_alphabet", "A?"),
    ("sign_lengths", []),
    ("sign_lengths", [2, 4]),
  ],
)
def test_a_config_that_cannot_be_drawn_is_refused_by_name(key, value):
  with pytest.raises(UserError, match=key):
    config_lib.build(SceneConfig, {key: value}, path="data.scene")


def test_colours_without_names_are_far_from_those_that_have_one():
  named = np.array([*COLOURS.values(), *([grey] * 3 for grey in scene_lib.GREYS.values())])
  config = SceneConfig(nameless=True, colour_jitter=0)
  scenes = [sample_scene(np.random.default_rng(seed), config) for seed in range(50)]
  things = [thing for scene in scenes for thing in scene.objects]
  assert len({thing.rgb for thing in things}) == len(things)
  assert {thing.colour for thing in things} == {None}
  assert not any(scene.held_out for scene in scenes)
  for thing in things:
    distance = np.abs(named - thing.rgb).max(axis=-1)
    assert distance.min() >= scene_lib.NAMELESS_DISTANCE
