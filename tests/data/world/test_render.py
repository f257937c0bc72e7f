import dataclasses
import itertools

import numpy as np
import pytest

from ernie_jax.data.world.render import coverage, render, sign_bitmap
from ernie_jax.data.world.scene import (
  COLOURS,
  SHAPES,
  SIGN_ALPHABET,
  TEXTURE_CONTRAST,
  TEXTURES,
  Background,
  Object,
  Scene,
  track,
)
from ernie_jax.data.world.scene_sampling import SceneConfig, sample_scene
from ernie_jax.errors import UserError

CLEAN = SceneConfig(position_jitter=0.0, colour_jitter=0, texture_probability=0.0)


def one_object(shape="circle", *, x=0.5, y=0.5, size="large", motion="still", speed=0.0, frames=1):
  thing = Object(
    shape=shape, colour="red", size=size, place="centre", motion=motion, x=x, y=y, speed=speed,
    rgb=COLOURS["red"],
  )  # fmt: skip
  background = Background(shade="dark", texture="plain", grey=60)
  return Scene(objects=(thing,), background=background, frames=frames)


@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize("frames", [1, 9])
def test_size_and_type(side, frames):
  scene = sample_scene(np.random.default_rng(0), SceneConfig(frames=frames))
  picture = render(scene, side)
  assert picture.shape == (frames, side, side, 3) and picture.dtype == np.uint8


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("radius", [2.88, 8.64])
def test_coverage_is_near_supersampling(shape, radius):
  n, factor = 25, 16
  fine = (np.arange(n * factor) + 0.5) / factor - n / 2 + 0.3
  exact = coverage(shape, fine[None, :] * 1e3, fine[:, None] * 1e3, radius * 1e3)
  exact = exact.reshape(n, factor, n, factor).mean((1, 3))
  coarse = np.arange(n) + 0.5 - n / 2 + 0.3
  drawn = coverage(shape, coarse[None, :], coarse[:, None], radius)
  assert np.abs(drawn - exact).max() < 0.35  # at the sharpest corners
  assert np.abs(drawn - exact).mean() < 0.006


def test_an_object_has_its_colour_inside_and_the_background_outside():
  picture = render(one_object(), 32)[0]
  assert tuple(picture[16, 16]) == COLOURS["red"]
  assert (picture[0] == 60).all() and (picture[:, 0] == 60).all()


def test_edges_are_blends():
  picture = render(one_object(x=0.503), 32)[0, :, :, 0].astype(int)
  assert len(np.unique(picture)) > 5
  assert picture.min() == 60 and picture.max() == COLOURS["red"][0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("side", [32, 64])
def test_a_move_by_whole_pixels_moves_the_picture(shape, side):
  scene = one_object(shape, motion="right", speed=1 / side, frames=5)
  frames = render(scene, side)
  for t in range(5):
    assert np.abs(np.roll(frames[0], t, axis=1).astype(int) - frames[t]).max() <= 1


def test_every_frame_shows_the_track():
  scene = one_object(motion="down", speed=0.035, frames=9, y=0.3)
  frames = render(scene, 64)[..., 0].astype(float) - 60
  rows = (frames.sum(2) * (np.arange(64) + 0.5)).sum(1) / frames.sum((1, 2)) / 64
  assert np.allclose(rows, track(scene.objects[0], 9)[:, 1], atol=0.002)


@pytest.mark.parametrize("texture", TEXTURES)
def test_a_texture_stays_within_its_contrast(texture):
  background = Background(shade="light", texture=texture, grey=190, phase=0.25)
  picture = render(dataclasses.replace(one_object(), objects=(), background=background), 32)[0]
  levels = picture[..., 0].astype(int) - 190
  assert np.abs(levels).max() == (0 if texture == "plain" else TEXTURE_CONTRAST)
  assert (picture[..., 0] == picture[..., 2]).all()


@pytest.mark.parametrize("side", [32, 64])
def test_a_sign_is_sharp(side):
  scene = sample_scene(np.random.default_rng(0), SceneConfig(sign_probability=1.0))
  picture = render(scene, side)[0, :: side // 32, :: side // 32]
  ink = sign_bitmap(scene.sign.text)
  rows, columns = (
    slice(start, start + n) for start, n in zip((scene.sign.row, scene.sign.column), ink.shape)
  )
  assert ((picture[rows, columns] < 128).all(-1) == ink).all()
  assert (picture[rows, columns][~ink] > 240).all()


def test_no_two_glyphs_are_nearer_than_two_dots():
  glyphs = [sign_bitmap(c) for c in SIGN_ALPHABET]
  assert min((a != b).sum() for a, b in itertools.combinations(glyphs, 2)) >= 2


def test_another_side_than_a_multiple_of_32_is_refused():
  with pytest.raises(UserError, match="multiple of 32"):
    render(one_object(), 48)
