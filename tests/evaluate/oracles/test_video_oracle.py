import dataclasses

import numpy as np
import pytest

from ernie_jax.data.world.render import render
from ernie_jax.data.world.scene import (
  COLOURS,
  MAX_JITTER,
  MAX_SPEED_JITTER,
  SPEED,
  Background,
  Object,
  Scene,
  place_centre,
)
from ernie_jax.data.world.scene_sampling import SceneConfig, sample_scene
from ernie_jax.evaluate.oracles.score import mean_scores, shuffled
from ernie_jax.evaluate.oracles.video import judge_video, static_video

EASY = SceneConfig(frames=9)
HARD = SceneConfig(
  frames=9,
  min_objects=2,
  texture_probability=1.0,
  sign_probability=0.3,
  position_jitter=MAX_JITTER,
  colour_jitter=20,
  speed_jitter=MAX_SPEED_JITTER,
)


def scenes(config, number, *, seed=0):
  rng = np.random.default_rng(seed)
  return [sample_scene(rng, config) for _ in range(number)]


def one_object(motion="right", *, place="left", frames=9, speed=SPEED):
  x, y = place_centre(place)
  thing = Object(
    shape="triangle", colour="yellow", size="large", place=place, motion=motion, x=x, y=y,
    speed=speed, rgb=COLOURS["yellow"],
  )  # fmt: skip
  background = Background(shade="dark", texture="plain", grey=60)
  return Scene(objects=(thing,), background=background, frames=frames)


@pytest.mark.parametrize(
  ("config", "side", "number"),
  [
    (EASY, 32, 60),
    (HARD, 32, 40),
    (dataclasses.replace(EASY, frames=17), 32, 20),
    (dataclasses.replace(EASY, frames=5), 32, 20),
    (HARD, 64, 15),
  ],
  ids=["easy", "hard", "long", "short", "large"],
)
def test_the_ceiling_is_one_on_clean_videos(config, side, number):
  found = [judge_video(render(s, side), s) for s in scenes(config, number)]
  assert set(mean_scores(found).values()) == {1.0}


def test_the_floor_is_near_zero_when_prompts_are_shuffled():
  drawn = scenes(EASY, 50)
  prompts = shuffled(drawn, np.random.default_rng(0))
  found = mean_scores([judge_video(render(s, 32), p) for s, p in zip(drawn, prompts)])
  assert found["all_correct"] <= 0.01 and found["objects_and_direction"] <= 0.02


def test_a_static_video_scores_zero_on_motion():
  found = [judge_video(static_video(render(s, 32)), s) for s in scenes(EASY, 40)]
  means = mean_scores(found)
  assert means["direction"] == means["trajectory"] == 0
  assert means["objects"] == means["stillness"] == means["permanence"] == 1


@pytest.mark.parametrize(
  ("motion", "place"),
  [("left", "right"), ("right", "left"), ("up", "bottom"), ("down", "top"), ("still", "centre")],
)
def test_every_motion_is_told_from_the_others(motion, place):
  video = render(one_object(motion, place=place, speed=SPEED * (motion != "still")), 32)
  for other in ("left", "right", "up", "down", "still"):
    score = judge_video(video, one_object(other, place=place))
    assert score.all_correct == (other == motion)
    assert score.objects == 1 and score.objects_and_direction == (other == motion)


def test_played_backwards_the_direction_is_wrong():
  scene = one_object()
  score = judge_video(render(scene, 32)[::-1], scene)
  assert score.direction == score.trajectory == 0 and score.shape == score.permanence == 1


def test_a_vanished_object_is_not_permanent():
  scene = one_object()
  video = render(scene, 32).copy()
  video[5] = 60
  score = judge_video(video, scene)
  assert score.permanence == 0 and score.direction == 1 and not score.all_correct


def test_a_change_of_colour_is_not_permanent():
  scene = one_object()
  green = dataclasses.replace(scene.objects[0], rgb=COLOURS["green"])
  other = render(dataclasses.replace(scene, objects=(green,)), 32)
  score = judge_video(np.concatenate([render(scene, 32)[:6], other[6:]]), scene)
  assert score.permanence == 0 and score.direction == 1 and not score.all_correct


def test_an_object_that_appears_is_something_else():
  scene = one_object()
  extra = dataclasses.replace(
    scene.objects[0], place="top right", x=5 / 6, y=1 / 6, motion="still", speed=0.0
  )
  both = render(dataclasses.replace(scene, objects=(*scene.objects, extra)), 32)
  score = judge_video(np.concatenate([render(scene, 32)[:3], both[3:]]), scene)
  assert score.count and not score.nothing_else and not score.all_correct


def test_stopping_half_way_keeps_the_direction_but_not_the_trajectory():
  scene = one_object()
  video = render(scene, 32)
  score = judge_video(video[[0, 1, 2, 3, 4, 5, 5, 5, 5]], scene)
  assert score.direction == 1 and score.trajectory == 0


def test_turning_back_at_the_border_is_on_course():
  scene = one_object(frames=33)
  assert judge_video(render(scene, 32), scene).all_correct


def test_a_motion_left_open_is_not_judged():
  scene = one_object()
  words = dataclasses.replace(scene.objects[0].described(), motion=None)
  score = judge_video(render(scene, 32), dataclasses.replace(scene, objects=(words,)))
  assert score.direction is None and score.stillness is None and score.all_correct
