"""Scores of a visual tokenizer: errors where they belong, and oracles beside their ceiling."""

import numpy as np
import pytest

from ernie_jax.data.media_example import MediaExample
from ernie_jax.data.world.render import render
from ernie_jax.data.world.scene_sampling import SceneConfig, sample_scene
from ernie_jax.evaluate import tokenizer as evaluate


@pytest.fixture(scope="module")
def examples():
  rng = np.random.default_rng(0)
  scenes = [sample_scene(rng, SceneConfig(max_objects=2)) for _ in range(4)]
  return [MediaExample(media=render(s, 32), scene=s.to_json()) for s in scenes]


def done(examples, after=None):
  before = np.stack([e.media for e in examples])
  after = before if after is None else after
  return evaluate.Reconstructed(before=before, after=after, usage=[1.0])


def test_a_perfect_reconstruction_reaches_the_ceiling(examples):
  found = evaluate.score(done(examples), examples)
  assert found["oracle"] == found["ceiling"] and found["ceiling"]["all_correct"] == 1
  assert found["psnr"] > 100
  assert "all_correct      1.000 of 1.000" in evaluate.describe(found)


def test_an_error_in_the_foreground_alone_counts_there_alone(examples):
  before = np.stack([e.media for e in examples])
  mask = np.stack([evaluate.foreground(evaluate.scene_from_json(e.scene), 32) for e in examples])
  assert 0.02 < mask.mean() < 0.3
  gone = np.where(mask[..., None], 255 - before, before)
  found = evaluate.score(done(examples, gone), examples)
  assert found["foreground_psnr"] < found["psnr"] - 5
  assert found["oracle"]["all_correct"] == 0 and found["ceiling"]["all_correct"] == 1
  outside = np.where(mask[..., None], before, np.clip(before, 0, 245) + 10)
  assert evaluate.score(done(examples, outside), examples)["foreground_psnr"] > 100


def test_psnr_of_one_level_everywhere():
  zero = np.zeros((2, 2), np.uint8)
  np.testing.assert_allclose(evaluate.psnr(zero, zero + 1), 20 * np.log10(255))


def test_without_scenes_there_is_no_oracle(examples):
  plain = [MediaExample(media=e.media) for e in examples]
  assert set(evaluate.score(done(plain), plain)) == {"examples", "psnr", "usage"}


def test_a_sheet_shows_originals_above_reconstructions(examples, tmp_path):
  evaluate.write_sheet(tmp_path / "sheet.png", done(examples), columns=3)
  import matplotlib.image

  picture = matplotlib.image.imread(tmp_path / "sheet.png")
  assert picture.shape[:2] == (2 * 100, 3 * 100)
  np.testing.assert_array_equal(picture[:100], picture[100:])
