"""Steps on speech and text: on eight devices as on one, and one compilation for every draw of the family."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_speech import MODEL, batch_of, listen, row_of, speak

from ernie_jax.elastic.family import ElasticConfig
from ernie_jax.sequence import Text
from ernie_jax.sharding import rules
from ernie_jax.sharding.distributed import host_batch_to_global
from ernie_jax.sharding.mesh import MeshConfig, make_mesh
from ernie_jax.train import state as state_lib
from ernie_jax.train.optimizer import OptimizerConfig, make_optimizer
from ernie_jax.train.pretrain import ObjectiveConfig, Pretrain
from ernie_jax.train.step import make_step

WIDE = dataclasses.replace(MODEL, kv_heads=2, mtp_depth=1, mtp_width=8)


def rows():
  """Four rows, of which one is of text alone."""
  one = lambda s: row_of(speak(s), listen(s + 1), speak(s + 2, frames=2))
  return batch_of(one(0), one(3), one(6), row_of([Text((1, 70, 71, 72, 2))]))


def reports(config: MeshConfig | None, steps: int = 1):
  """What the first steps report, on the devices of `config`; all randomness follows from the seed."""
  elastic = ElasticConfig(depth_full=0.5, width_full=0.5, sparsity_full=0.5)
  task = Pretrain(WIDE, elastic, ObjectiveConfig())
  schedule = lambda step: jnp.float32(1e-2)
  shapes = jax.eval_shape(lambda: state_lib.initial_params(task, 0))
  optimizer = make_optimizer(OptimizerConfig(), schedule, shapes)
  mesh = make_mesh(config) if config else None
  with rules.enter(mesh, config):
    state = state_lib.create(task, optimizer, 0, mesh)
    batch = host_batch_to_global(jax.tree.map(lambda x: x[None], rows()), mesh, batch_axis=1)
    step = jax.jit(make_step(task, optimizer, schedule))
    found = []
    for _ in range(steps):
      state, report = step(state, batch, jnp.asarray(1))
      found.append(jax.device_get(report))
  return found, step._cache_size()


def test_a_step_on_eight_devices_equals_that_on_one():
  (wanted,), _ = reports(None)
  (got,), _ = reports(MeshConfig(data=2, fsdp=2, tensor=2))
  for name in ("loss/codes", "loss/understanding", "codes/by_level", "loss/mtp"):
    np.testing.assert_allclose(got.metrics[name], wanted.metrics[name], rtol=1e-5)
  np.testing.assert_allclose(got.leaf_norms, wanted.leaf_norms, rtol=1e-3, atol=1e-6)
  assert got.finite and (got.leaf_norms > 0).mean() > 0.9


def test_steps_learn_and_all_draws_share_one_compilation():
  found, compilations = reports(None, steps=12)
  assert compilations == 1
  losses = [report.metrics["loss/codes"] for report in found]
  assert losses[0] == pytest.approx(np.log(7), abs=0.05)
  assert np.mean(losses[-3:]) < losses[0] - 0.1
