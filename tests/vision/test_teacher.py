"""Teachers: the small classifier learns, is kept whole on disk, and gives maps; a ViT fits in its place."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ernie_jax.errors import UserError
from ernie_jax.vision.teacher import VitTeacher, load_classifier, train_classifier
from ernie_jax.vision.vit import VisionTransformer, VitConfig


def bars(count, seed):
  """Pictures of a bright column and a bright row; labels: which quarter each is in."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, 4, (count, 2)).astype(np.int32)
  pictures = np.full((count, 16, 16, 3), 40, np.uint8)
  for picture, (column, row) in zip(pictures, labels):
    picture[:, 4 * column + 1, 0] = 250
    picture[4 * row + 1, :, 1] = 250
  return pictures, labels


@pytest.fixture(scope="module")
def teacher():
  return train_classifier(*bars(256, 0), classes=(4, 4), steps=60, batch=32)


def test_the_classifier_learns_what_it_is_shown(teacher):
  pictures, labels = bars(64, 1)
  logits = teacher.logits(pictures.astype(np.float32) / 127.5 - 1)
  for group, found in enumerate(logits):
    assert (np.argmax(found, -1) == labels[:, group]).mean() > 0.9


def test_maps_get_smaller_and_deeper(teacher):
  maps = teacher.maps(jnp.zeros((2, 16, 16, 3)))
  assert [m.shape for m in maps] == [(2, 8, 8, 24), (2, 4, 4, 48), (2, 2, 2, 64)]


def test_a_kept_classifier_is_the_same(teacher, tmp_path):
  teacher.save(tmp_path / "teacher.safetensors")
  again = load_classifier(tmp_path / "teacher.safetensors")
  assert again.classes == (4, 4)
  x = jax.random.normal(jax.random.key(0), (1, 16, 16, 3))
  for a, b in zip(teacher.maps(x), again.maps(x)):
    np.testing.assert_array_equal(a, b)
  assert [p.name for p in tmp_path.iterdir()] == ["teacher.safetensors"]


def test_a_file_that_is_no_teacher_is_told_in_one_line(tmp_path):
  (tmp_path / "bad").write_bytes(b"nothing")
  for path in (tmp_path / "bad", tmp_path / "absent"):
    with pytest.raises(UserError, match=path.name):
      load_classifier(path)


def test_a_vit_gives_its_patches_at_the_size_it_knows():
  config = VitConfig(patch=4, grid=(4, 4), depth=1, width=8, heads=2, mlp_width=8)
  pictures = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
  init = jax.jit(VisionTransformer(config).init)
  params = init(jax.random.key(1), jnp.zeros((1, 16, 16, 3)))["params"]
  (only,) = VitTeacher(params=params, config=config).maps(pictures)
  assert only.shape == (2, 4, 4, 8)
  with pytest.raises(UserError, match=r"its grid is \(4, 2\)"):
    VitTeacher(params=params, config=dataclasses.replace(config, grid=(4, 2)))
