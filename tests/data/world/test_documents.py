"""Documents: the pictures are what the text says, and each text but the first is one change."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_jax.data.world.documents import story
from ernie_jax.data.world.language import caption_exact
from ernie_jax.data.world.scene import place_of, track
from ernie_jax.data.world.scene_sampling import SceneConfig, sample_scene

CHANGED = {
  "turns into": "shape",
  "turns": "colour",
  "becomes": "size",
  "moves to": "place",
}


def draw(seed, split="train"):
  rng = np.random.default_rng(seed)
  config = SceneConfig(sign_probability=0.5)
  scene = sample_scene(rng, config, split=split)
  return scene, story(scene, config, rng)


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 10**6), split=st.sampled_from(["train", "validation", "held_out"]))
def test_a_document_shows_what_it_says(seed, split):
  scene, told = draw(seed, split)
  assert 2 <= len(told.scenes) <= 3 and len(told.texts) == len(told.scenes) + 1
  assert told.scenes[0].objects == scene.objects and told.scenes[0].sign is None
  if told.texts[0] == "first:":
    assert told.texts[1] == "then:" and len(told.scenes) == 2
    changes = told.texts[2:]
  else:
    assert caption_exact(told.texts[0], told.scenes[0]) and told.texts[-1] == ""
    changes = told.texts[1:-1]
  for before, after, text in zip(told.scenes, told.scenes[1:], changes):
    check_change(before, after, text)


def check_change(before, after, text):
  gone = [o.described() for o in before.objects if o not in after.objects]
  come = [o.described() for o in after.objects if o not in before.objects]
  assert after.background == before.background
  if "goes away" in text:
    assert len(gone) == 1 and not come
  elif "comes at" in text:
    (thing,) = come
    assert not gone
    assert text == f"a {thing.size} {thing.colour} {thing.shape} comes at the {thing.place}."
  else:
    (old,), (new,) = gone, come
    name = next(n for words, n in CHANGED.items() if f" {words} " in text)
    different = {n for n in vars(old) if getattr(old, n) != getattr(new, n)}
    assert different == {name} and text.endswith(f" {getattr(new, name)}.")


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 10**6), split=st.sampled_from(["train", "validation"]))
def test_changed_scenes_keep_the_rules_of_drawn_ones(seed, split):
  _, told = draw(seed, split)
  for scene in told.scenes:
    assert scene.split == split and 1 <= len(scene.objects) <= 3
    centres = [track(o, 1)[0] for o in scene.objects]
    for i, thing in enumerate(scene.objects):
      assert place_of(*centres[i]) == thing.place
      for j in range(i):
        reach = thing.radius + scene.objects[j].radius
        assert (np.abs(centres[i] - centres[j]) > reach).any()


def test_documents_are_of_pictures():
  rng = np.random.default_rng(0)
  video = sample_scene(rng, SceneConfig(frames=9))
  with pytest.raises(ValueError, match="pictures"):
    story(video, SceneConfig(frames=9), rng)
