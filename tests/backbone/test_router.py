"""The router against a loop, and the rules of its bias, of restricted rows and of its losses."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_jax.backbone.config import ModelConfig
from ernie_jax.backbone.router import (
  Router,
  choose,
  count_load,
  router_z_loss,
  sequence_balance_loss,
  update_bias,
)
from ernie_jax.sharding import ahead_of_time, rules, transports
from ernie_jax.sharding.mesh import MeshConfig, make_mesh

KINDS = ["softmax", "sigmoid"]


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def run(logits, bias=None, allowed=None, live=None, top_k=None, *, k, **options):
  """`choose` with everything allowed, live and of full top-k unless said otherwise."""
  rows, length, experts = logits.shape
  return choose(
    jnp.asarray(logits),
    jnp.zeros(experts) if bias is None else jnp.asarray(bias),
    jnp.ones((rows, experts), bool) if allowed is None else jnp.asarray(allowed),
    jnp.ones((rows, length), bool) if live is None else jnp.asarray(live),
    jnp.full(rows, k) if top_k is None else jnp.asarray(top_k),
    k=k,
    **options,
  )


def one_token(logits, bias, allowed, top_k, *, scores, renormalise, scale):
  """{expert: gate} of one token, written as the rule is told."""
  inside = [e for e in range(len(logits)) if allowed[e]]
  if scores == "softmax":
    total = sum(np.exp(logits[e]) for e in inside)
    score = {e: np.exp(logits[e]) / total for e in inside}
  else:
    score = {e: 1 / (1 + np.exp(-logits[e])) for e in inside}
  chosen = sorted(inside, key=lambda e: -(score[e] + bias[e]))[:top_k]
  total = sum(score[e] for e in chosen) if renormalise else 1.0
  return {e: scale * score[e] / total for e in chosen}


def gates_by_expert(routes, row, position):
  """{expert: gate} of the choices that count."""
  at = (row, position)
  return {
    int(e): float(g)
    for e, g, counts in zip(routes.experts[at], routes.gates[at], routes.live[at])
    if counts
  }


@given(
  seed=st.integers(0, 10_000),
  k=st.integers(1, 4),
  scores=st.sampled_from(KINDS),
  renormalise=st.booleans(),
  scale=st.sampled_from([1.0, 2.5]),
)
@settings(max_examples=30, deadline=None)
def test_choices_and_gates_are_those_of_a_loop(seed, k, scores, renormalise, scale):
  rng = np.random.default_rng(seed)
  rows, length, experts = 3, 4, 6
  logits = (2 * rng.normal(size=(rows, length, experts))).astype(np.float32)
  bias = rng.normal(size=experts).astype(np.float32)
  allowed = rng.random((rows, experts)) < 0.6
  allowed[:, 0] = True
  top_k = rng.integers(1, k + 1, rows)
  options = dict(scores=scores, renormalise=renormalise, scale=scale)
  routes = run(logits, bias, allowed, None, top_k, k=k, **options)
  for b in range(rows):
    for i in range(length):
      expected = one_token(logits[b, i], bias, allowed[b], top_k[b], **options)
      found = gates_by_expert(routes, b, i)
      assert found == pytest.approx(expected, rel=1e-4)
      assert list(found) == list(expected)  # best first
  assert (np.asarray(routes.gates)[~np.asarray(routes.live)] == 0).all()


@pytest.mark.parametrize("scores", KINDS)
def test_the_bias_moves_selection_and_nothing_else(scores):
  logits, bias = normal(2, 5, 8), np.zeros(8, np.float32)
  plain = run(logits, bias, k=8, scores=scores)
  bias[3] = 10.0
  biased = run(logits, bias, k=8, scores=scores)
  assert (biased.experts[..., 0] == 3).all() and not (plain.experts[..., 0] == 3).all()
  for b in range(2):
    for i in range(5):  # all experts are chosen either way: only their order may differ
      assert gates_by_expert(biased, b, i) == pytest.approx(gates_by_expert(plain, b, i))


@pytest.mark.parametrize("scores", KINDS)
def test_the_bias_gets_no_gradient_and_the_logits_do(scores):
  weight = jnp.asarray(normal(2, 5, 3, seed=1))
  loss = lambda logits, bias: (run(logits, bias, k=3, scores=scores).gates * weight).sum()
  by_logits, by_bias = jax.grad(loss, argnums=(0, 1))(normal(2, 5, 8), normal(8, seed=2))
  assert (by_bias == 0).all()
  assert (np.abs(by_logits).sum(axis=(1, 2)) > 0).all()


@pytest.mark.parametrize("scores", KINDS)
def test_a_restricted_row_equals_a_router_with_only_those_experts(scores):
  kept = np.array([1, 4, 5, 7])
  logits, bias = normal(2, 6, 9), normal(9, seed=1)
  allowed = np.isin(np.arange(9), kept)[None].repeat(2, axis=0)
  wide = run(logits, bias, allowed, k=3, scores=scores)
  narrow = run(logits[..., kept], bias[kept], k=3, scores=scores)
  np.testing.assert_array_equal(wide.experts, kept[np.asarray(narrow.experts)])
  np.testing.assert_allclose(wide.gates, narrow.gates, rtol=1e-5)


@pytest.mark.parametrize("scores", KINDS)
def test_a_smaller_top_k_equals_a_router_of_that_k(scores):
  """Ranks past it are zeroed before the gates are renormalised, so they still add up to one."""
  logits, bias = normal(2, 6, 9), normal(9, seed=1)
  masked = run(logits, bias, None, None, np.array([2, 2]), k=4, scores=scores)
  small = run(logits, bias, k=2, scores=scores)
  np.testing.assert_array_equal(masked.experts[..., :2], small.experts)
  np.testing.assert_allclose(masked.gates[..., :2], small.gates, rtol=1e-6)
  assert (masked.gates[..., 2:] == 0).all() and not masked.live[..., 2:].any()
  np.testing.assert_allclose(masked.gates.sum(-1), 1, rtol=1e-5)


def test_rows_with_fewer_allowed_experts_than_k_use_no_forbidden_one():
  allowed = np.zeros((1, 6), bool)
  allowed[0, [2, 5]] = True
  routes = run(normal(1, 4, 6), normal(6, seed=1) * 5, allowed, k=4)
  assert set(np.asarray(routes.experts)[np.asarray(routes.live)]) <= {2, 5}
  assert (routes.live.sum(-1) == 2).all()
  assert np.isfinite(routes.gates).all()


def test_load_counts_live_choices_by_all_rows_and_by_those_that_count():
  live = np.array([[True, True, False], [True, False, False], [True, True, True]])
  top_k = np.array([2, 2, 1])
  routes = run(normal(3, 3, 5), None, None, live, top_k, k=2)
  load_all, load = count_load(routes, jnp.array([True, False, False]), experts=5)
  assert load_all.sum() == 2 * 2 + 1 * 2 + 3 * 1
  assert load.sum() == 2 * 2
  expected = np.zeros(5)
  np.add.at(expected, np.asarray(routes.experts[0, :2]).ravel(), 1)
  np.testing.assert_array_equal(load, expected)


def test_update_bias_lifts_the_underloaded_by_the_rate_and_leaves_idle_layers_alone():
  bias = jnp.zeros((2, 3))
  load = jnp.array([[9.0, 3.0, 6.0], [0.0, 0.0, 0.0]])
  np.testing.assert_allclose(update_bias(bias, load, rate=0.5), [[-0.5, 0.5, 0], [0, 0, 0]])


def test_following_the_load_balances_a_skewed_router():
  """The bias ends in a cycle as wide as its step, so the step is small against the scores."""
  logits = normal(4, 64, 8) + np.linspace(2, -2, 8, dtype=np.float32)
  bias = jnp.zeros(8)

  @jax.jit
  def step(bias):
    load = count_load(run(logits, bias, k=2), jnp.ones(4, bool), experts=8)[1]
    return update_bias(bias, load, rate=0.002), load.max() / load.mean()

  overloads = []
  for _ in range(250):
    bias, overload = step(bias)
    overloads.append(float(overload))
  assert overloads[0] > 2.5
  assert np.mean(overloads[-10:]) < 1.3


def balanced(rows=2, experts=4):
  """Rows whose every expert is chosen once and equally liked on average."""
  return np.tile(np.eye(experts, dtype=np.float32)[None], (rows, 1, 1))


def test_balance_loss_is_one_at_perfect_balance_with_a_finite_gradient_and_more_elsewhere():
  ones = lambda n: jnp.ones((2, n), bool)
  once = jnp.ones(2, int)
  loss = lambda logits: sequence_balance_loss(logits, ones(4), ones(4), once, k=1)
  value, gradient = jax.value_and_grad(loss)(jnp.asarray(balanced()))
  np.testing.assert_allclose(value, 1.0, rtol=1e-6)
  assert np.isfinite(gradient).all()
  value, gradient = jax.value_and_grad(loss)(jnp.zeros((2, 4, 4)))  # ties: all choose the first
  np.testing.assert_allclose(value, 1.0, rtol=1e-6)
  assert np.isfinite(gradient).all()
  skewed = jnp.asarray(normal(2, 4, 4)) + jnp.array([4.0, 0, 0, 0])
  assert loss(skewed) > 2
  pushed = jax.grad(loss)(skewed)
  assert (pushed[..., 0] > 0).all()  # descending it lowers the crowded expert


def test_balance_loss_of_a_restricted_row_and_of_padding():
  """Perfect balance is 1 whatever the pool; padding counts for nothing; a row of padding is left out."""
  logits = balanced()
  logits = np.concatenate([logits, np.full((2, 4, 2), 9, np.float32)], axis=-1)
  allowed = jnp.asarray(np.arange(6) < 4)[None].repeat(2, axis=0)
  live = jnp.array([[True] * 4, [False] * 4])
  once = jnp.ones(2, int)
  value = sequence_balance_loss(jnp.asarray(logits), allowed, live, once, k=1)
  np.testing.assert_allclose(value, 1.0, rtol=1e-6)
  tail = np.concatenate([logits, normal(2, 3, 6)], axis=1)
  live = jnp.pad(live, ((0, 0), (0, 3)))
  padded = sequence_balance_loss(jnp.asarray(tail), allowed, live, once, k=1)
  np.testing.assert_allclose(padded, value, rtol=1e-6)


@pytest.mark.parametrize("scores", KINDS)
def test_balance_loss_is_its_formula(scores):
  """f_e = E / (K T) times how often e is among the K best, P_e = mean of s_e / sum of s (DeepSeek-V3, eq. 17-20)."""
  logits, (rows, length, experts), k = normal(2, 6, 4), (2, 6, 4), 2
  score = np.exp(logits) if scores == "softmax" else 1 / (1 + np.exp(-logits))
  score /= score.sum(-1, keepdims=True)
  best = np.argsort(-logits, axis=-1)[..., :k]
  f = np.stack([np.bincount(row.ravel(), minlength=experts) for row in best])
  wanted = (f * experts / (k * length) * score.mean(1)).sum(-1).mean()
  every, ranks = jnp.ones((rows, experts), bool), jnp.full(rows, k)
  live = jnp.ones((rows, length), bool)
  got = sequence_balance_loss(jnp.asarray(logits), every, live, ranks, k=k, scores=scores)
  np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_scores_are_of_full_precision_on_every_platform_and_no_device_sees_the_others_tokens():
  config = ModelConfig(vocab_size=8, depth=1, width=16, heads=2, kv_heads=1, experts=8, top_k=2)
  mesh = make_mesh(MeshConfig(fsdp=4, context=2))
  rows, length = 8, 6
  x = jax.ShapeDtypeStruct((rows, length, 16), jnp.bfloat16)
  context = types.SimpleNamespace(top_k=jnp.full(rows, 2), counted=jnp.ones(rows, bool))
  apply = lambda kernel, x: Router(config).apply(
    {"params": {"kernel": kernel}}, x, jnp.zeros(8), jnp.ones((rows, 8), bool),
    jnp.ones((rows, length), bool), context,
  )[0]  # fmt: skip
  kernel = jax.ShapeDtypeStruct((16, 8), jnp.float32)
  assert "HIGHEST" in str(jax.make_jaxpr(apply)(kernel, x))
  tokens = jax.NamedSharding(mesh, transports.TOKENS)
  with rules.enter(mesh):
    run = jax.jit(apply, in_shardings=(None, tokens), out_shardings=tokens)
    assert ahead_of_time.report(run.lower(kernel, x).compile()).collectives == {}


def test_z_loss_is_the_mean_squared_log_normaliser_of_live_tokens():
  logits = normal(2, 3, 5)
  live = np.array([[True, False, True], [True, False, False]])
  normalisers = [np.log(np.exp(logits[b, i]).sum()) for b, i in zip(*np.nonzero(live))]
  value = router_z_loss(jnp.asarray(logits), jnp.asarray(live))
  np.testing.assert_allclose(value, np.mean(np.square(normalisers)), rtol=1e-5)
  assert router_z_loss(jnp.asarray(logits), jnp.zeros((2, 3), bool)) == 0
