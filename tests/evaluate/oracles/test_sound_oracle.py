"""The sounds of scenes: hums and clicks are where the scene has them, and the oracle hears them."""

import dataclasses
import itertools

import numpy as np
import pytest

from ernie_jax.data.world.scene import COLOURS, Object, Scene, SceneConfig, sample_scene
from ernie_jax.data.world.sounds import FPS, HARMONICS, RATE, TIMBRES, pitch_of, sound, turns
from ernie_jax.evaluate.oracles.score import shuffled
from ernie_jax.evaluate.oracles.sound import hear_clicks, judge_sound

FRAMES = 33


@pytest.fixture(scope="module")
def scenes():
  rng = np.random.default_rng(2)
  return [sample_scene(rng, SceneConfig(frames=FRAMES)) for _ in range(60)]


def test_a_scene_sounds_as_long_as_it_lasts(scenes):
  for scene in scenes[:3]:
    assert len(sound(scene)) == round(FRAMES / FPS * RATE)
    assert np.array_equal(sound(scene), sound(scene)) and np.abs(sound(scene)).max() < 1


def test_the_oracle_hears_what_is_there(scenes):
  scores = [judge_sound(sound(s), s) for s in scenes]
  assert np.mean([s.objects for s in scores]) >= 0.95
  assert np.mean([s.clicks for s in scores]) >= 0.98
  assert sum(len(turns(s)) for s in scenes) > 30


def test_another_scenes_sound_is_the_floor(scenes):
  dealt = shuffled(scenes, np.random.default_rng(0))
  scores = [judge_sound(sound(other), s) for other, s in zip(dealt, scenes)]
  assert np.mean([s.objects for s in scores]) <= 0.1


def test_noise_of_20_db_hides_nothing(scenes):
  rng = np.random.default_rng(0)
  noisy = [sound(s) for s in scenes[:20]]
  noisy = [w + 0.1 * np.sqrt(np.mean(w**2)) * rng.normal(size=len(w)) for w in noisy]
  scores = [judge_sound(w, s) for w, s in zip(noisy, scenes)]
  assert np.mean([s.objects for s in scores]) >= 0.9
  assert np.mean([s.clicks for s in scores]) >= 0.9


def one(scene, **changes):
  (first, *_) = scene.objects
  return dataclasses.replace(scene, objects=(dataclasses.replace(first, **changes),))


def test_a_click_is_where_an_object_turns_and_nowhere_else():
  thing = Object(shape="ring", colour="red", size="small", x=0.5, y=0.5, rgb=(1, 2, 3))
  still = Scene(objects=(thing,), background=None, frames=FRAMES)
  assert turns(still) == () and hear_clicks(sound(still)) == ()
  moving = one(still, motion="right", speed=0.035)
  # From the middle to the border at 1 - 0.09 in 0.41 / 0.035 = 11.7 frames, and across in 23.4.
  assert len(turns(moving)) == 1 and turns(moving)[0] in (11, 12)
  assert hear_clicks(sound(moving)) == turns(moving)
  silent = dataclasses.replace(moving, frames=9)
  assert turns(silent) == () and judge_sound(sound(silent), silent).clicks == 1


def test_each_shape_has_a_timbre_of_its_own_and_each_colour_a_pitch():
  assert np.linalg.cond([np.array(t) / np.linalg.norm(t) for t in TIMBRES.values()]) < 10
  thing = Object(shape="ring", colour="blue", size="small", x=0.5, y=0.5, rgb=(1, 2, 3))
  pitches = sorted(pitch_of(dataclasses.replace(thing, colour=c)) for c in COLOURS)
  tones = {(i, k): k * p for i, p in enumerate(pitches) for k in HARMONICS}
  for (i, a), (j, b) in itertools.combinations(tones.items(), 2):
    assert i[0] == j[0] or abs(12 * np.log2(a / b)) > 0.9


def test_a_missing_or_invented_click_costs():
  thing = Object(shape="ring", colour="red", size="small", x=0.5, y=0.5, rgb=(1, 2, 3))
  still = Scene(objects=(thing,), background=None, frames=FRAMES)
  moving = one(still, motion="right", speed=0.035)
  assert judge_sound(sound(still), moving).clicks == 0
  assert judge_sound(sound(moving), still).clicks == 0
  assert judge_sound(sound(still), moving).objects
