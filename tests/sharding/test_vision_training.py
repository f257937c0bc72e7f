"""A step on pictures, videos and text on several devices: the losses and gradients of one device."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_vision import CONFIG, MODEL, batch_of, frozen_tokenizer, media, row_of

from ernie_jax.elastic.family import ElasticConfig
from ernie_jax.media import Vision
from ernie_jax.sequence import Drawn, Seen, Text
from ernie_jax.sharding import rules
from ernie_jax.sharding.distributed import host_batch_to_global
from ernie_jax.sharding.mesh import MeshConfig, make_mesh
from ernie_jax.train import state as state_lib
from ernie_jax.train.optimizer import OptimizerConfig, make_optimizer
from ernie_jax.train.pretrain import ObjectiveConfig, Pretrain
from ernie_jax.train.step import make_step


def rows():
  """Four rows with all kinds of slots."""
  one = lambda s: row_of(
    [Text((1, 70 + s)), Drawn(media(s)), Text((2,))],
    [Text((1,)), Drawn(media(s + 2, 9), dropped=(0,)), Text((2,))],
    [Text((1,)), Seen(media(s + 4)), Text((3, 80 + s, 2))],
  )
  return batch_of(*map(one, range(4)))


def report(config: MeshConfig | None):
  """What the first step reports, on the devices of `config`; all randomness follows from the seed."""
  elastic = ElasticConfig(depth_full=0.5, width_full=0.5, sparsity_full=0.5)
  model = dataclasses.replace(MODEL, kv_heads=2)  # which the tensor axis divides
  task = Pretrain(model, elastic, ObjectiveConfig(), Vision(CONFIG, frozen_tokenizer()))
  schedule = lambda step: jnp.float32(1e-2)
  shapes = jax.eval_shape(lambda: state_lib.initial_params(task, 0))
  optimizer = make_optimizer(OptimizerConfig(), schedule, shapes)
  mesh = make_mesh(config) if config else None
  with rules.enter(mesh, config):
    state = state_lib.create(task, optimizer, 0, mesh)
    batch = host_batch_to_global(jax.tree.map(lambda x: x[None], rows()), mesh, batch_axis=1)
    step = jax.jit(make_step(task, optimizer, schedule))
    return jax.device_get(step(state, batch, jnp.asarray(1))[1])


@functools.cache
def on_one_device():
  return report(None)


@pytest.mark.parametrize(
  "config",
  [MeshConfig(data=2), MeshConfig(fsdp=2, tensor=2, expert=2), MeshConfig(data=2, context=2)],
  ids=["data", "fsdp, tensor, expert", "data, context"],
)
def test_a_step_on_a_mesh_equals_that_on_one_device(config):
  wanted, got = on_one_device(), report(config)
  for name in ("loss/bits", "loss/understanding", "bits/by_scale"):
    np.testing.assert_allclose(got.metrics[name], wanted.metrics[name], rtol=1e-5)
  np.testing.assert_allclose(got.leaf_norms, wanted.leaf_norms, rtol=1e-3, atol=1e-6)
  assert got.finite and (got.leaf_norms > 0).mean() > 0.9
