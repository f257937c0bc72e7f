"""What each modality pulls the shared layers with, by hand, and by the command on a tiny run of text."""

import dataclasses
import functools
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_vision import CONFIG, MODEL, batch_of, clear_params, frozen_tokenizer, media, row_of

from ernie_jax.analysis.gradients import GradientReport, ModalityGradient, _gradient, _report
from ernie_jax.backbone.config import RouterConfig
from ernie_jax.elastic.family import ElasticConfig
from ernie_jax.errors import UserError
from ernie_jax.media import Vision
from ernie_jax.sequence import Drawn, Seen, Text
from ernie_jax.train.experiment import build_experiment, default_config, make_tiny
from ernie_jax.train.pretrain import ObjectiveConfig, Pretrain, initial_variables
from ernie_jax.train.run import run_experiment


class Task:
  """Two modalities with weights."""

  modalities = ("text", "bits")

  def __init__(self, rescale: bool):
    self.objective = ObjectiveConfig(rescale=rescale)

  def weights(self, variables):
    assert variables.means is None
    return {"text": 2.0, "bits": 1.0}


def test_shares_are_of_the_sum_of_weighted_means():
  one, other = np.array([1.0, 0.0]), np.array([0.0, 1.0])
  found = {"text": [(4.0, one), (4.0, one)], "bits": [(0.5, 3 * other)]}
  text, bits = _report(found, Task(rescale=False), 2, step=3).modalities
  assert (text.batches, text.loss, text.weight, text.noise, text.signal) == (2, 4, 2, 2, 2)
  assert (bits.batches, bits.noise, bits.signal) == (1, 3, 1.5)
  assert (text.share, bits.share) == pytest.approx((4 / 6.25, 2.25 / 6.25))
  text, bits = _report(found, Task(rescale=True), 2, step=3).modalities
  assert (text.noise, text.signal, bits.noise, bits.signal) == pytest.approx((0.5, 0.5, 6, 3))
  assert text.share + bits.share == pytest.approx(1)


def test_gradients_of_modalities_alone_add_up_to_the_joint_one():
  vision = Vision(CONFIG, frozen_tokenizer())
  plain = ElasticConfig(depth_full=1.0, width_full=1.0, sparsity_full=1.0)
  model = dataclasses.replace(
    MODEL, router=RouterConfig(z_loss=0.1)
  )  # so that the router pulls too
  task = Pretrain(model, plain, ObjectiveConfig(), vision)
  params = clear_params(vision.tokenizer, model)
  row = row_of(
    [Text(tuple(range(64, 80)))],
    [Text((1,)), Seen(media(2)), Text((3, 80, 2))],
    [Text((1, 70)), Drawn(media(0)), Text((2,))],
  )
  batch, variables = batch_of(row), initial_variables(model, vision.tokenizer)
  gradient = jax.jit(jax.grad(functools.partial(_gradient, task), has_aux=True))
  pull = lambda **weights: gradient(
    params["stack"], params, variables, dict.fromkeys(task.modalities, 0.0) | weights, batch,
    jax.random.key(0), jnp.asarray(0),
  )  # fmt: skip
  none, _ = pull()
  alone = [pull(**{name: 1.0})[0] for name in task.modalities]
  joint, losses = pull(**dict.fromkeys(task.modalities, 1.0))
  assert all(float(losses[name]) > 0 for name in task.modalities)
  assert len(alone) == 3 and max(np.abs(x).max() for x in jax.tree.leaves(none)) > 1e-3
  added = jax.tree.map(lambda none, *each: none + sum(one - none for one in each), none, *alone)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), added, joint)
  for one in alone:
    apart = jax.tree.map(lambda a, b: np.abs(a - b).max(), one, none)
    assert max(jax.tree.leaves(apart)) > 1e-4


def test_the_table_has_a_line_each():
  report = GradientReport((ModalityGradient("text", 8, 4.5, 0.6, 0.19, 0.09, 0.014),), step=1328)
  head, _, text, about = report.to_text().splitlines()
  assert text.split() == ["text", "8", "4.500", "0.6", "0.190", "0.090", "1.4%"]
  assert head.split()[-1] == "share" and "step 1,328" in about


def test_nothing_learnt_is_told():
  with pytest.raises(UserError, match="--batches"):
    _report({"text": [], "bits": []}, Task(rescale=True), 1, step=1)


def test_the_command_takes_the_gradient_of_a_runs_own_data(corpus_dir, tokenizer, tmp_path):
  config = default_config()
  make_tiny(config)
  config.model.update(vocab_size=tokenizer.vocab_size, depth=2, width=16, head_dim=8)
  tokenizer.save(tmp_path / "tokenizer.model")
  config.text.tokenizer = str(tmp_path / "tokenizer.model")
  config.data.sources = ({"path": str(corpus_dir), "validation_percent": 20.0},)
  config.data.update(data_dir=str(tmp_path / "data"), row_length=32, rows_per_batch=4)
  config.train.update(steps=1, evaluate_every=0, log_every=1)
  config.train.schedule.update(warmup_steps=0)
  config.elastic.first_step = 0
  config.mesh.data = 1
  run_experiment(build_experiment(config), tmp_path / "run" / "model", with_report=False)
  (tmp_path / "run" / "pipeline.json").write_text('{"model": {}}')  # it stands for its model
  command = [sys.executable, "-m", "ernie_jax.analysis.gradients", f"--workdir={tmp_path / 'run'}"]
  done = subprocess.run([*command, "--batches=2"], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  (text,) = json.loads((tmp_path / "run" / "model" / "gradients.json").read_text())["modalities"]
  assert text["name"] == "text" and text["batches"] == 2
  assert text["share"] == pytest.approx(1) and 0 < text["signal"] <= text["noise"] * 1.0001
  assert 5 < text["loss"] < 7.5  # log of 640 ids is 6.5
  again = subprocess.run([*command, "--batches=0"], capture_output=True, text=True)
  assert again.returncode != 0 and "--batches must be at least 1" in again.stderr
