"""The same training run on one device and on every kind of mesh: losses equal to 1e-5 in float32."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ernie_jax.backbone.config import ModelConfig
from ernie_jax.elastic.family import ElasticConfig
from ernie_jax.sequence.row import Kind, Row
from ernie_jax.sharding import rules
from ernie_jax.sharding.distributed import host_batch_to_global
from ernie_jax.sharding.mesh import MeshConfig, make_mesh
from ernie_jax.train import state as state_lib
from ernie_jax.train.optimizer import OptimizerConfig, make_optimizer
from ernie_jax.train.pretrain import ObjectiveConfig, Pretrain
from ernie_jax.train.step import make_step

ROWS, LENGTH, STEPS = 8, 16, 3
# One scanned layer body, to compile quickly; the layers above it are made of the same parts.
MODEL = ModelConfig(
  vocab_size=64, depth=2, width=16, heads=4, kv_heads=4, head_dim=8, experts=8, top_k=2,
  expert_width=16, shared_width=16, top_layers=0,
)  # fmt: skip
MESHES = {
  "data and context": (MeshConfig(context=2), "row", "adamw"),
  # Muon keeps moments of matrices apart from Adam's.
  "fsdp and tensor": (MeshConfig(fsdp=4, tensor=2), "row", "muon"),
  "fsdp, expert by ring, tensor": (
    MeshConfig(fsdp=2, expert=2, tensor=2, transport="ring"),
    "row",
    "adamw",
  ),
  # Whole layers are skipped here: all devices must take the same branch around the transport.
  "data, expert by all_to_all": (MeshConfig(expert=4), "step", "adamw"),
}


def batch(step: int) -> Row:
  """Random text in two packed examples a row, the last positions empty."""
  rng = np.random.default_rng(step)
  at = np.arange(LENGTH)
  full = lambda x, dtype=np.int32: np.broadcast_to(np.asarray(x, dtype), (ROWS, LENGTH)).copy()
  token = rng.integers(1, MODEL.vocab_size, (ROWS, LENGTH)).astype(np.int32)
  text = at < LENGTH - 2
  return Row(
    kind=full(np.where(text, Kind.TEXT, Kind.PAD)),
    token=token * text,
    position=np.repeat(full(at, np.float32)[..., None], 3, -1),
    group=full(at),
    example=full(np.where(text, 1 + (at >= 7), 0)),
    hidden_from=full(0),
    hidden_to=full(0),
    media_slot=full(0),
    media_element=full(0),
    target=np.roll(token, -1, axis=1),
    text_weight=full(text, np.float32),
    media_weight=full(0, np.float32),
  )


def losses(config: MeshConfig | None, granularity: str, optimizer: str) -> list[float]:
  """Losses of three steps, all run by one compiled program."""
  elastic = ElasticConfig(
    granularity=granularity, depth_full=0.5, width_full=0.5, sparsity_full=0.5
  )
  task = Pretrain(MODEL, elastic, ObjectiveConfig())
  schedule = lambda step: jnp.float32(1e-2)
  shapes = nn.unbox(jax.eval_shape(task.init, jax.random.key(0))[0])
  # Of a member with one expert a token the router's gradient is 0 but for rounding (1e-10), and an epsilon of 1e-8
  # would make steps of that.
  optimizer = make_optimizer(OptimizerConfig(name=optimizer, eps=1e-6), schedule, shapes)
  mesh = make_mesh(config) if config else None
  out = []
  with rules.enter(mesh, config):
    state = state_lib.create(task, optimizer, 0, mesh)
    placed = jax.tree.map(lambda x: x.sharding, state) if config else None
    step = jax.jit(make_step(task, optimizer, schedule), out_shardings=(placed, None))
    for i in range(STEPS):
      rows = jax.tree.map(lambda x: x[None], batch(i))
      arguments = (state, host_batch_to_global(rows, mesh, batch_axis=1), jnp.asarray(1))
      if i == 0:
        compiled = step.lower(*arguments).compile()
        gathers = [line for line in compiled.as_text().splitlines() if " all-gather(" in line]
        assert not config or gathers or config.fsdp == 1
        # Who routes where follows from a device's own tokens (its kernel, divided over fsdp, comes whole).
        assert not [line for line in gathers if "router/top_k" in line]
      # It refuses arrays that are placed otherwise than the first step's.
      state, report = compiled(*arguments)
      out.append(float(report.loss))
  return out


@functools.cache
def losses_on_one_device(granularity: str, optimizer: str) -> list[float]:
  return losses(None, granularity, optimizer)


@pytest.mark.parametrize(("config", "granularity", "optimizer"), MESHES.values(), ids=MESHES)
def test_losses_on_a_mesh_equal_those_on_one_device(config, granularity, optimizer):
  wanted = losses_on_one_device(granularity, optimizer)
  assert len(set(wanted)) == STEPS
  np.testing.assert_allclose(losses(config, granularity, optimizer), wanted, rtol=1e-5)


@pytest.mark.parametrize(("factor", "layers"), [(0.1, [1, 1]), (10.0, [0, 0])])
def test_metrics_tell_which_layers_took_the_ring(factor, layers):
  config = MeshConfig(expert=4, capacity_factor=factor)
  task = Pretrain(MODEL, ElasticConfig(), ObjectiveConfig())
  mesh = make_mesh(config)
  with rules.enter(mesh, config):
    params, variables = nn.unbox(jax.jit(task.init)(jax.random.key(0)))
    rows = host_batch_to_global(batch(0), mesh, batch_axis=0)
    found = jax.jit(task.loss)(params, variables, rows, jax.random.key(0), jnp.asarray(0))
  assert found.metrics["router/overflowed"].tolist() == layers


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_moment_is_divided_as_its_parameter(name):
  task = Pretrain(MODEL, ElasticConfig(), ObjectiveConfig())
  shapes = jax.eval_shape(lambda: state_lib.initial_params(task, 0))
  optimizer = make_optimizer(OptimizerConfig(name=name), lambda step: jnp.float32(1e-2), shapes)
  mesh = make_mesh(MeshConfig(fsdp=2, expert=2, tensor=2))
  state = state_lib.shape_of(task, optimizer, 0, mesh)
  gate = state.params["stack"]["layers"]["moe"]["experts"]["gate"]
  assert not gate.sharding.is_fully_replicated
  leaves = jax.tree_util.tree_leaves_with_path(state.opt_state)
  moments = [x for path, x in leaves if jax.tree_util.keystr(path).endswith("['gate']")]
  assert len(moments) == (2 if name == "adamw" else 1)
  assert all(x.sharding == gate.sharding for x in moments)
