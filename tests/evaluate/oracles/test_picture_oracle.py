import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from ernie_jax.data.world.render import render
from ernie_jax.data.world.scene import (
  COLOURS,
  MAX_JITTER,
  PLACES,
  SHAPES,
  SIZES,
  Background,
  Described,
  Object,
  Scene,
  place_centre,
  place_of,
)
from ernie_jax.data.world.scene_sampling import SceneConfig, sample_scene
from ernie_jax.evaluate.oracles.image import judge_picture, read_picture
from ernie_jax.evaluate.oracles.score import mean_scores, shuffled

EASY = SceneConfig()
HARD = SceneConfig(
  min_objects=2,
  texture_probability=1.0,
  sign_probability=0.5,
  position_jitter=MAX_JITTER,
  colour_jitter=20,
)


def scenes(config, number, *, seed=0, **kwargs):
  rng = np.random.default_rng(seed)
  return [sample_scene(rng, config, **kwargs) for _ in range(number)]


def an_object(shape="circle", colour="red", size="large", place="centre"):
  x, y = place_centre(place)
  return Object(
    shape=shape, colour=colour, size=size, place=place, motion="still", x=x, y=y,
    rgb=COLOURS[colour],
  )  # fmt: skip


def a_scene(*objects, shade="dark"):
  grey = {"dark": 60, "light": 190}[shade]
  return Scene(objects=objects, background=Background(shade=shade, texture="plain", grey=grey))


LETTERS = dataclasses.replace(HARD, sign_probability=1.0, sign_lengths=(1, 3))


@pytest.mark.parametrize("config", [EASY, HARD, LETTERS], ids=["easy", "hard", "letters"])
@pytest.mark.parametrize(("side", "number"), [(32, 300), (64, 150)])
def test_the_ceiling_is_one_on_clean_pictures(config, side, number):
  found = [judge_picture(render(s, side)[0], s) for s in scenes(config, number)]
  assert set(mean_scores(found).values()) == {1.0}


@pytest.mark.parametrize("side", [32, 64])
def test_every_object_is_read_alone_in_every_place(side):
  for i, place in enumerate(PLACES):
    for shape in SHAPES:
      for size in SIZES:
        colour = list(COLOURS)[(i + SHAPES.index(shape)) % len(COLOURS)]
        scene = a_scene(an_object(shape, colour, size, place), shade=("dark", "light")[i % 2])
        assert judge_picture(render(scene, side)[0], scene).all_correct, (shape, size, place)


@pytest.mark.parametrize("config", [EASY, HARD], ids=["easy", "hard"])
def test_the_floor_is_near_zero_when_prompts_are_shuffled(config):
  drawn = scenes(config, 200)
  prompts = shuffled(drawn, np.random.default_rng(0))
  found = [judge_picture(render(s, 32)[0], p) for s, p in zip(drawn, prompts)]
  assert mean_scores(found)["all_correct"] <= 0.01


@pytest.mark.parametrize(("decibels", "blur"), [(30, 0.0), (26, 0.0), (None, 0.8), (28, 0.6)])
def test_objects_survive_noise_and_blur(decibels, blur):
  rng = np.random.default_rng(1)
  found = []
  for scene in scenes(EASY, 150):
    picture = ndimage.gaussian_filter(render(scene, 32)[0].astype(float), (blur, blur, 0))
    if decibels is not None:
      picture += rng.normal(0, 255 * 10 ** (-decibels / 20), picture.shape)
    found.append(judge_picture(np.clip(np.rint(picture), 0, 255).astype(np.uint8), scene))
  assert mean_scores(found)["all_correct"] >= 0.98


@pytest.mark.parametrize(
  ("word", "other"),
  [("shape", "square"), ("colour", "blue"), ("size", "small"), ("place", "top")],
)
def test_a_wrong_word_costs_its_own_attribute_only(word, other):
  right = an_object()
  changed = an_object(**{word: other})
  score = judge_picture(render(a_scene(changed), 32)[0], a_scene(right))
  wrong = {f.name for f in dataclasses.fields(score) if getattr(score, f.name) != 1}
  assert wrong == {word, "all_correct"}


def test_what_the_words_leave_open_is_not_judged():
  drawn = a_scene(an_object("ring", "cyan", "small", "left"))
  prompt = dataclasses.replace(drawn, objects=(Described(colour="cyan"),))
  assert judge_picture(render(drawn, 32)[0], prompt).all_correct


def test_objects_are_matched_in_any_order():
  one, two = an_object(place="left"), an_object("cross", "green", place="right")
  assert judge_picture(render(a_scene(one, two), 32)[0], a_scene(two, one)).all_correct


def test_a_missing_object_and_one_too_many_are_counted():
  one, two = an_object(place="left"), an_object("cross", "green", place="right")
  missing = judge_picture(render(a_scene(one), 32)[0], a_scene(one, two))
  assert not missing.count and missing.shape == missing.place == 0.5
  extra = judge_picture(render(a_scene(one, two), 32)[0], a_scene(one))
  assert not extra.count and extra.shape == 1 and not extra.all_correct


def test_an_empty_picture_has_nothing_right():
  score = judge_picture(np.full((32, 32, 3), 60, np.uint8), a_scene(an_object()))
  assert (score.shape, score.colour, score.count, score.all_correct) == (0, 0, False, False)


@pytest.mark.parametrize("level", [(250, 250, 250), (0, 0, 0), (220, 40, 40)])
def test_something_else_is_noticed(level):
  scene = a_scene(an_object(place="bottom right"), shade="light")
  picture = render(scene, 32)[0].copy()
  picture[3:5, 2:12] = level  # a bar is none of the world's shapes
  score = judge_picture(picture, scene)
  assert score.shape == score.place == 1
  assert not score.nothing_else and not score.all_correct


def test_half_an_object_is_not_an_object():
  scene = a_scene(an_object("square"))
  picture = render(scene, 64)[0].copy()
  picture[:, 32:] = 60
  assert not judge_picture(picture, scene).all_correct


@pytest.mark.parametrize("change", ["text", "place", "none", "unasked"])
def test_a_wrong_sign_is_noticed(change):
  scene = scenes(dataclasses.replace(EASY, sign_probability=1.0, max_objects=1), 1)[0]
  picture = render(scene, 32)[0]
  assert judge_picture(picture, scene).sign
  if change == "text":
    other = dataclasses.replace(scene.sign, text="C" + scene.sign.text[1:])
    assert other.text != scene.sign.text
    prompt = dataclasses.replace(scene, sign=other)
  elif change == "place":
    place = PLACES[(PLACES.index(scene.sign.place) + 1) % 9]
    prompt = dataclasses.replace(scene, sign=dataclasses.replace(scene.sign, place=place))
  elif change == "unasked":
    prompt = dataclasses.replace(scene, sign=None)
  else:
    prompt, picture = scene, render(dataclasses.replace(scene, sign=None), 32)[0]
  score = judge_picture(picture, prompt)
  assert not score.sign and not score.all_correct and score.shape == 1


def test_every_sign_lies_in_the_place_it_is_named_by():
  for scene in scenes(dataclasses.replace(EASY, sign_probability=1.0), 100):
    assert place_of(*scene.sign.box[:2]) == scene.sign.place
    assert read_picture(render(scene, 32)[0]).sign.place == scene.sign.place


def test_centres_are_read_within_a_quarter_of_a_pixel():
  for scene in scenes(dataclasses.replace(EASY, max_objects=1), 50):
    (found,) = read_picture(render(scene, 32)[0]).objects
    thing = scene.objects[0]
    assert max(abs(found.x - thing.x), abs(found.y - thing.y)) < 0.25 / 32


def test_shuffled_moves_every_item():
  for seed in range(20):
    dealt = shuffled(range(5), np.random.default_rng(seed))
    assert sorted(dealt) == list(range(5)) and all(i != d for i, d in enumerate(dealt))


def test_another_size_of_picture_is_refused():
  with pytest.raises(ValueError, match="multiple of 32"):
    read_picture(np.zeros((48, 48, 3), np.uint8))
