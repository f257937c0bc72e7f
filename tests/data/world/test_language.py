"""What a caption says is read back exactly, whatever its style; what says something else is told apart."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_jax.data.world import language
from ernie_jax.data.world.language import (
  DescribedSign,
  Description,
  caption,
  caption_exact,
  captions,
  describe,
  parse_caption,
)
from ernie_jax.data.world.scene import Described
from ernie_jax.data.world.scene_sampling import SceneConfig, sample_scene

scenes = st.builds(
  lambda frames, seed, split: sample_scene(
    np.random.default_rng(seed), SceneConfig(frames=frames, sign_probability=0.5), split=split
  ),
  st.sampled_from([1, 9]),
  st.integers(0, 10**6),
  st.sampled_from(["train", "held_out"]),
)
ALL_STYLES = 6


@settings(deadline=None, max_examples=50)
@given(scene=scenes, seed=st.integers(0, 10**6))
def test_every_style_says_the_scene_and_is_read_back(scene, seed):
  told = captions(scene, np.random.default_rng(seed), ALL_STYLES)
  assert len(set(told)) == ALL_STYLES
  for text in told:
    assert parse_caption(text).same_as(describe(scene))
    assert caption_exact(text, scene)
    assert caption_exact(f" {text.upper()} ", scene)


@settings(deadline=None, max_examples=50)
@given(scene=scenes, other=scenes, seed=st.integers(0, 10**6))
def test_a_caption_of_another_scene_is_not_exact(scene, other, seed):
  text = caption(other, np.random.default_rng(seed))
  assert caption_exact(text, scene) == describe(other).same_as(describe(scene))


@pytest.mark.parametrize(
  "frames, name",
  [(f, n) for f in (1, 9) for n in ("shape", "colour", "size", "place")] + [(9, "motion")],
)
def test_a_caption_with_one_word_wrong_is_not_exact(frames, name):
  rng = np.random.default_rng(0)
  scene = sample_scene(rng, SceneConfig(frames=frames))
  values = {"shape": "ring", "colour": "red", "size": "small", "place": "top", "motion": "up"}
  others = {"shape": "cross", "colour": "blue", "size": "large", "place": "left", "motion": "down"}
  for thing in scene.objects:
    word = others[name] if getattr(thing, name) == values[name] else values[name]
    changed = tuple(
      dataclasses.replace(o, **{name: word}) if o is thing else o for o in scene.objects
    )
    wrong = dataclasses.replace(scene, objects=changed)
    assert not any(caption_exact(text, scene) for text in captions(wrong, rng, ALL_STYLES))


def test_a_caption_that_leaves_out_or_adds_a_thing_is_not_exact():
  rng = np.random.default_rng(1)
  scene = sample_scene(rng, SceneConfig(min_objects=2, sign_probability=1.0))
  less = dataclasses.replace(scene, objects=scene.objects[1:])
  unsigned = dataclasses.replace(scene, sign=None)
  assert caption_exact(caption(scene, rng), scene)
  assert not caption_exact(caption(less, rng), scene)
  assert not caption_exact(caption(scene, rng), less)
  assert not caption_exact(caption(unsigned, rng), scene)
  assert not caption_exact(caption(scene, rng), unsigned)


@pytest.mark.parametrize(
  "text, expected",
  [
    (
      "A large red circle at the top left.",
      Described(size="large", colour="red", shape="circle", place="top left"),
    ),
    ("a red circle", Described(colour="red", shape="circle")),
    ("there is a circle", Described(shape="circle")),
    ("a video of a small ring moving up", Described(size="small", shape="ring", motion="up")),
    (
      "a green square at the top standing still",
      Described(colour="green", shape="square", place="top", motion="still"),
    ),
  ],
)
def test_prompts_may_leave_words_out(text, expected):
  assert parse_caption(text) == Description((expected,))


def test_a_prompt_may_be_a_sign_alone():
  assert parse_caption("a sign that says ace") == Description((), DescribedSign("ACE"))


@pytest.mark.parametrize(
  "text",
  [
    "",
    "a",
    "a red",
    "red circle a",
    "a red circlea",
    "a red circle at the",
    "a red circle at the top and",
    "a crimson circle at the top",
    "a red circle at the top a blue square at the left",
    "a sign that says ACE and a sign that says TXT",
    "a red circle at the top moving up moving up",
    "a picture of",
  ],
)
def test_what_is_not_a_caption_is_not_read(text):
  assert parse_caption(text) is None


def test_captions_are_short():
  rng = np.random.default_rng(2)
  config = SceneConfig(frames=9, min_objects=3, sign_probability=1.0)
  told = [t for _ in range(50) for t in captions(sample_scene(rng, config), rng, ALL_STYLES)]
  assert max(len(text.split()) for text in told) <= 60


def test_the_number_of_styles_is_the_one_tested():
  assert len(language._PICTURE_STYLES) == len(language._VIDEO_STYLES) == ALL_STYLES
