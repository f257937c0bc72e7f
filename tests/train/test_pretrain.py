"""Pre-training's step: elastic draws, gradient accumulation, and the router's bias and measured use."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ernie_jax.audio.codec import CodecConfig
from ernie_jax.audio.quantizer import RvqConfig
from ernie_jax.backbone.config import AudioConfig, ModelConfig, RouterConfig
from ernie_jax.elastic.family import ElasticConfig
from ernie_jax.model import UnifiedModel
from ernie_jax.sequence import Text, lay_out, pack
from ernie_jax.speech import Speech
from ernie_jax.train.optimizer import OptimizerConfig, make_optimizer
from ernie_jax.train.pretrain import ObjectiveConfig, Pretrain, Variables, balance_metrics
from ernie_jax.train.state import create
from ernie_jax.train.step import make_step

MODEL = ModelConfig(
  vocab_size=96, depth=2, width=16, heads=2, kv_heads=1, head_dim=8, experts=4, top_k=2,
  expert_width=8, shared_width=8, mtp_depth=1, mtp_width=8, grouped_matmul="reference",
)  # fmt: skip
PLAIN = ElasticConfig(depth_full=1.0, width_full=1.0, sparsity_full=1.0)
DRAWN = ElasticConfig(depth_full=0.4, width_full=0.4, sparsity_full=0.4)
LENGTH, ROWS = 16, 4
RATE = 1e-2


def rows(seed: int, count: int = ROWS, length: int = LENGTH):
  """Rows full of random text."""
  rng = np.random.default_rng(seed)
  tokens = lambda: tuple(rng.integers(64, 96, length).tolist())
  made = [pack([lay_out([Text(tokens())])], length) for _ in range(count)]
  return jax.tree.map(lambda *fields: np.stack(fields), *made)


@functools.cache
def start(elastic):
  """A fresh state and the jitted step, which the tests share."""
  task = Pretrain(MODEL, elastic, ObjectiveConfig())
  schedule = lambda step: jnp.float32(RATE)
  shapes = jax.eval_shape(lambda key: nn.unbox(task.init(key)[0]), jax.random.key(0))
  # Nearly plain gradient steps: Adam would magnify the rounding of gradients that are almost zero.
  optimizer = make_optimizer(OptimizerConfig(b1=0.0, b2=0.0, eps=1.0), schedule, shapes)
  step = jax.jit(make_step(task, optimizer, schedule))
  return create(task, optimizer, 0), step


def fresh(elastic, model=MODEL):
  """A task with its first parameters and router state."""
  task = Pretrain(model, elastic, ObjectiveConfig())
  params, variables = jax.jit(task.init)(jax.random.key(0))
  return task, nn.unbox(params), variables


def stacked(*batches):
  return jax.tree.map(lambda *fields: np.stack(fields), *batches)


@pytest.mark.parametrize("granularity", ["row", "step"])
def test_all_draws_and_ramped_batches_share_one_compilation(granularity):
  elastic = dataclasses.replace(DRAWN, granularity=granularity)
  state, step = start(elastic)
  found = []
  for i, count in enumerate([1, 1, 2, 3, 3, 2]):
    state, report = step(state, stacked(*(rows(10 * i + j) for j in range(3))), jnp.asarray(count))
    assert report.finite
    found.append(float(report.loss))
  assert step._cache_size() == 1 and len(set(found)) == 6
  assert int(state.step) == 6


def test_accumulation_equals_one_batch_as_many_times_larger():
  parts = [rows(seed) for seed in range(2)]
  whole = jax.tree.map(lambda *fields: np.concatenate(fields), *parts)
  state, step = start(PLAIN)
  wanted, wanted_report = step(state, stacked(whole), jnp.asarray(1))
  got, report = step(state, stacked(*parts, rows(99)), jnp.asarray(2))  # the third is filling
  np.testing.assert_allclose(report.loss, wanted_report.loss, rtol=1e-5)
  np.testing.assert_allclose(report.leaf_norms, wanted_report.leaf_norms, rtol=1e-4, atol=1e-6)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
  jax.tree.map(close, got.params, wanted.params)
  assert any(
    jax.tree.leaves(jax.tree.map(lambda a, b: not np.allclose(a, b), got.params, state.params))
  )
  jax.tree.map(close, got.variables, wanted.variables)


def test_a_layer_or_expert_that_no_row_ran_stays_as_it_is():
  """By step, where it would otherwise be moved by its moments: by Muon at full size."""
  elastic = dataclasses.replace(DRAWN, granularity="step", widths=(2,))
  task = Pretrain(dataclasses.replace(MODEL, depth=3), elastic, ObjectiveConfig())
  schedule = lambda step: jnp.float32(RATE)
  shapes = jax.eval_shape(lambda key: nn.unbox(task.init(key)[0]), jax.random.key(0))
  optimizer = make_optimizer(OptimizerConfig(name="muon"), schedule, shapes)
  step = jax.jit(make_step(task, optimizer, schedule))
  state, seen = create(task, optimizer, 0), {"layers": set(), "experts": set()}
  for i in range(10):
    new, _ = step(state, stacked(rows(i)), jnp.asarray(1))
    loss = jax.jit(task.loss)(
      state.params, state.variables, rows(i),
      jax.random.fold_in(jax.random.fold_in(state.key, i), 0), jnp.asarray(i),
    )  # fmt: skip
    moved = jax.tree.map(lambda a, b: np.asarray(a != b), new.params, state.params)["stack"]
    for n in range(2):  # the third is the top, which always runs
      experts = moved["layers"]["moe"]["experts"]["up"][n].any((-1, -2))
      attention = moved["layers"]["attention"]["query"]["kernel"][n].any()
      assert attention == loss.counts["layers"][n]
      np.testing.assert_array_equal(experts, loss.counts["experts"][n] > 0)
      seen["layers"].add(bool(attention))
      seen["experts"].add(int(experts.sum()))
    state = new
  assert seen == {"layers": {False, True}, "experts": {0, 2, 4}}


def test_metrics_of_micro_batches_are_means_over_those_that_have_what_they_are_about():
  state, step = start(PLAIN)
  empty = jax.tree.map(lambda x: np.zeros_like(x), rows(0))
  _, alone = step(state, stacked(*[rows(0)] * 3), jnp.asarray(1))
  _, both = step(state, stacked(rows(0), empty, empty), jnp.asarray(2))
  np.testing.assert_allclose(both.metrics["loss/text"], alone.metrics["loss/text"], rtol=1e-6)
  np.testing.assert_allclose(both.loss, alone.loss / 2, rtol=1e-6)


def test_each_micro_batch_draws_its_own_members():
  batch = rows(0)
  state, step = start(DRAWN)
  _, once = step(state, stacked(*[batch] * 3), jnp.asarray(1))
  _, twice = step(state, stacked(*[batch] * 3), jnp.asarray(2))
  assert not np.isclose(once.loss, twice.loss, rtol=1e-6)


def test_the_weight_of_mtp_changes_at_its_step():
  task, params, variables = fresh(PLAIN)
  task.objective = ObjectiveConfig(mtp_switch=5)
  loss = lambda step: task.loss(params, variables, rows(0), jax.random.key(0), step)
  loss = jax.jit(loss)
  for step, weight in ((4, 0.3), (5, 0.1)):
    out = loss(jnp.asarray(step))
    assert float(out.metrics["mtp_weight"]) == pytest.approx(weight)
    total = out.metrics["loss/text"] + weight * out.metrics["loss/mtp"]
    assert float(out.loss) == pytest.approx(float(total), rel=1e-6)


def test_rescaled_losses_are_told_beside_the_raw_ones_and_their_means_follow():
  task, params, _ = fresh(PLAIN)
  task.objective = ObjectiveConfig(rescale=True)
  variables = jax.jit(task.init)(jax.random.key(0))[1]
  loss = jax.jit(lambda v: task.loss(params, v, rows(0), jax.random.key(0), jnp.asarray(0)))
  first = loss(variables)
  raw, scaled = first.metrics["loss/text"], first.metrics["rescaled/text"]
  assert float(scaled) == float(raw) > 2  # nothing to divide by yet
  after = task.update(variables, first.counts, 0)
  np.testing.assert_allclose(after.means.total["text"], raw, rtol=1e-6)
  again = loss(after)
  assert float(again.metrics["rescaled/text"]) == pytest.approx(1.0)
  want = (raw + 0.3 * again.metrics["loss/mtp"]) / raw
  assert float(again.loss) == pytest.approx(float(want), rel=1e-5)


def test_rows_without_sound_train_a_model_that_has_a_codec():
  quantizer = RvqConfig(levels=2, codes=6, width=8, semantic_width=4)
  speech = Speech(CodecConfig(quantizer=quantizer), {}, np.zeros((2, 6, 8), np.float32))
  model = dataclasses.replace(MODEL, audio=AudioConfig(levels=2, codes=6), top_layers=2)
  task = Pretrain(model, PLAIN, ObjectiveConfig(rescale=True), speech=speech)
  params, variables = jax.jit(task.init)(jax.random.key(0))
  params = nn.unbox(params)
  run = jax.jit(lambda p: task.loss(p, variables, rows(0), jax.random.key(0), jnp.asarray(0)))
  out = run(params)
  assert np.isfinite(out.loss) and float(out.metrics["loss/codes"]) == 0
  weight = task.update(variables, out.counts, 0).means.weight
  assert float(weight["text"]) == 1 and float(weight["codes"]) == 0  # still to be seen


def test_the_bias_moves_a_skewed_router_towards_balance():
  model = dataclasses.replace(MODEL, router=RouterConfig(bias_rate=0.005), mtp_depth=0)
  task, params, variables = fresh(PLAIN, model)
  router = params["stack"]["layers"]["moe"]["router"]
  # What all tokens have in common speaks for the first expert.
  params["embed"]["embedding"] += 0.05
  router["kernel"] = router["kernel"].at[..., 0].add(0.1)

  @jax.jit
  def one(variables, batch):
    stats = UnifiedModel(model).apply({"params": params}, batch, variables.bias).stats
    return task.update(variables, {"load": stats.load}, 0), balance_metrics(stats.load, model)

  found = []
  for i in range(100):
    variables, metrics = one(variables, rows(i, 64))
    found.append(np.asarray(metrics["router/max_over_mean"]) - 1)
  before, after = np.mean(found[:5], axis=0), np.mean(found[-5:], axis=0)
  assert (before > 0.4).all() and (after < before / 2).all(), (before, after)
  assert np.abs(variables.bias).max() > 0.05


def test_only_rows_of_the_full_model_move_the_bias():
  none_full = ElasticConfig(depth_full=1.0, width_full=1.0, sparsity_full=0.0)
  task, params, variables = fresh(none_full)
  loss = functools.partial(task.loss, params, variables, step=jnp.asarray(0))
  out = jax.jit(loss)(rows(0), jax.random.key(0))
  assert not out.counts["load"].any()
  assert np.isnan(task.measured(out.counts)["router/max_over_mean"]).all()
  after = task.update(variables, out.counts, 0)
  jax.tree.map(np.testing.assert_array_equal, after, variables)

  state, step = start(PLAIN)
  after, report = step(state, stacked(rows(0), rows(1), rows(2)), jnp.asarray(1))
  assert (report.metrics["router/max_over_mean"] >= 1).all()
  assert set(np.abs(np.asarray(after.variables.bias)).ravel().tolist()) <= {0.0, np.float32(1e-3)}
  assert np.abs(after.variables.bias).any()


def test_balance_is_that_of_the_whole_step_and_of_layers_that_ran():
  task = Pretrain(MODEL, PLAIN, ObjectiveConfig())
  first, second = jnp.array([[6.0, 0, 0, 2], [0] * 4]), jnp.array([[0.0, 6, 2, 0], [0] * 4])
  found = task.measured({"load": first + second})
  np.testing.assert_allclose(found["router/max_over_mean"], [1.5, np.nan], rtol=1e-6)
  assert found["router/dead"][0] == 0 and np.isnan(found["router/dead"][1])
  even = task.measured({"load": jnp.ones((2, 4))})
  assert [np.asarray(v).tolist() for v in even.values()] == [[1, 1], [1, 1], [0, 0]]


def test_measured_use_is_a_moving_average_of_shares_where_a_layer_has_counts():
  task = Pretrain(MODEL, PLAIN, ObjectiveConfig())
  start = Variables(bias=jnp.zeros((2, 4)), usage=jnp.full((2, 4), 0.25))
  load = jnp.array([[6.0, 2, 0, 0], [0, 0, 0, 0]])
  after = task.update(start, {"load": load}, 0)
  np.testing.assert_allclose(after.usage[0], [0.255, 0.25, 0.2475, 0.2475], rtol=1e-6)
  np.testing.assert_array_equal(after.usage[1], start.usage[1])
  np.testing.assert_allclose(after.bias, [[-1e-3, 0, 1e-3, 1e-3], [0] * 4], atol=1e-9)
