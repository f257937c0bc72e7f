"""Training the visual encoder, and the model that looks with it."""

import importlib.util
import json
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ernie_jax
from ernie_jax.data.world.patch_labels import ATTRIBUTES, NOTHING, UNKNOWN, LabelledPictures
from ernie_jax.errors import UserError
from ernie_jax.train import visual_encoder_run as run_lib
from ernie_jax.train.encoder_io import held_kind, load_encoder
from ernie_jax.train.visual_encoder import EncoderTask, PatchNamer, accuracy
from ernie_jax.vision.vit import VisionTransformer, VitConfig

FILE = pathlib.Path(ernie_jax.__file__).parents[1] / "experiments" / "visual_encoder.py"
VIT = VitConfig(patch=8, grid=(4, 4), depth=1, width=8, heads=2, mlp_width=8, positions="sincos")


def from_file(arg):
  spec = importlib.util.spec_from_file_location("visual_encoder", FILE)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(arg)


def pictures(seed=0):
  rng = np.random.default_rng(seed)
  return LabelledPictures(
    pixels=rng.integers(256, size=(4, 32, 32, 3), dtype=np.uint8),
    labels=rng.integers(0, 3, size=(4, len(ATTRIBUTES), 4, 4)).astype(np.int8),
  )


@pytest.fixture(scope="module")
def task():
  return EncoderTask(VIT, 32)


@pytest.fixture(scope="module")
def params(task):
  return nn.unbox(jax.jit(task.init)(jax.random.key(0))[0])


def test_what_has_no_name_has_no_part_in_the_loss(task, params):
  batch = pictures()
  hidden = np.asarray(batch.labels == 1)
  unknown = batch.replace(labels=np.where(hidden, UNKNOWN, batch.labels).astype(np.int8))
  loss = lambda params, batch: task.loss(params, {}, batch, jax.random.key(0), 0)
  logits = PatchNamer(VIT).apply({"params": params}, jnp.asarray(batch.pixels) / 127.5 - 1)
  expected = []
  for a, z in enumerate(logits):
    labels = unknown.labels[:, a]
    weights = np.where(labels == NOTHING, 0.2, labels != UNKNOWN)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(z), np.maximum(labels, 0)[..., None], -1)
    expected.append(-(weights * chosen[..., 0]).sum() / weights.sum())
  found = loss(params, unknown)
  np.testing.assert_allclose(found.loss, np.mean(expected), rtol=1e-5)
  nothing = batch.replace(labels=np.full_like(batch.labels, UNKNOWN))
  grads = jax.grad(lambda p: loss(p, nothing).loss)(params)
  assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(grads))


def test_accuracy_counts_patches_with_a_thing(params):
  batch = pictures(1)
  logits = PatchNamer(VIT).apply({"params": params}, jnp.asarray(batch.pixels) / 127.5 - 1)
  said = np.stack([np.asarray(z.argmax(-1)) for z in logits], axis=1).astype(np.int8)
  found = accuracy(VIT, params, batch.replace(labels=said))
  assert all(value in (0.0, 1.0) for value in found.values())  # 0 only where there is none to count
  assert found["shape"] == float((said[:, 0] > NOTHING).any())
  wrong = np.where(said > NOTHING, NOTHING, 1).astype(np.int8)
  assert max(accuracy(VIT, params, batch.replace(labels=wrong)).values()) == 0


@pytest.mark.parametrize(("arg", "side"), [("", 32), ("side=64", 64), ("tiny,side=64", 64)])
def test_the_experiment_builds_with_its_arguments(arg, side):
  e = run_lib.build_experiment(from_file(arg))
  assert e.data.side == side and e.vit.patches(side, side) == (8, 8)
  assert [world.scene.nameless for world in e.data.worlds] == [False, True]


def test_unknown_arguments_are_refused():
  with pytest.raises(ValueError, match="unknown argument 'video'"):
    from_file("video")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> pathlib.Path:
  """A tiny encoder, stopped half-way and gone on with."""
  folder = tmp_path_factory.mktemp("encoder")
  config = from_file("tiny")
  config.data.data_dir = str(folder / "data")
  config.train.steps = 10
  run_lib.run_experiment(run_lib.build_experiment(config), folder / "run")
  config.train.steps = 20
  run_lib.run_experiment(run_lib.build_experiment(config), folder / "run")
  return folder / "run"


def test_an_experiment_is_reported_and_read_back_as_an_encoder(finished):
  report = json.loads((finished / run_lib.REPORT).read_text())
  assert report["step"] == 20 and set(report) == {"step", *run_lib.SPLITS}
  assert all(0 <= value <= 1 for split in run_lib.SPLITS for value in report[split].values())
  assert held_kind(finished) == "vit"
  saved = load_encoder(finished, "vit")
  pixels = jnp.zeros((1, 32, 32, 3))
  patches = VisionTransformer(saved.config).apply({"params": saved.params}, pixels).patches
  assert patches.shape == (1, 8, 8, 16) and np.isfinite(patches).all()


def test_another_config_is_refused_and_a_finished_run_says_so(finished, capsys):
  config = from_file("tiny")
  config.data.data_dir = str(finished.parent / "data")
  run_lib.run_experiment(run_lib.build_experiment(config), finished)
  assert "is finished: step 20 of 20" in capsys.readouterr().out
  config.vit.depth = 2
  with pytest.raises(UserError, match=r"config\.vit\.depth was 1, is 2"):
    run_lib.run_experiment(run_lib.build_experiment(config), finished)
