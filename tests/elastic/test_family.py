"""Members and their draws: names, which layers a depth keeps, probabilities, and what a draw leaves out."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_family import batch, family, forward

from ernie_jax.backbone.config import ModelConfig
from ernie_jax.elastic.family import (
  ElasticConfig,
  Member,
  check_family,
  full_member,
  kept_layers,
  members_of,
  parse_member,
  sample,
  used_experts,
)
from ernie_jax.errors import UserError
from ernie_jax.model import UnifiedModel
from ernie_jax.objectives.text import text_loss

PLAIN = ElasticConfig(depth_full=1.0, width_full=1.0, sparsity_full=1.0)
CHOICES = ("spaced", "prefix", "random")
MODEL = ModelConfig(vocab_size=96, depth=6, width=16, experts=8, top_k=4)


@st.composite
def shapes(draw):
  depth = draw(st.integers(1, 12))
  model = dataclasses.replace(MODEL, depth=depth, top_layers=draw(st.integers(0, depth)))
  member = draw(st.integers(max(1, model.top_layers), depth))
  return model, member, ElasticConfig(layer_choice=draw(st.sampled_from(CHOICES)))


@settings(deadline=None, max_examples=60)
@given(shapes())
def test_a_depth_keeps_so_many_layers_and_always_the_top_and_the_bottom(shape):
  model, depth, elastic = shape
  keep = kept_layers(depth, elastic, model)
  assert keep.sum() == depth and keep[-1]
  assert keep[model.depth - model.top_layers :].all()
  if depth > max(1, model.top_layers):
    assert keep[0]
  if elastic.layer_choice == "prefix":
    assert np.all(np.diff(np.flatnonzero(keep)[: depth - max(1, model.top_layers)]) == 1)


def test_spaced_layers_are_spread_over_the_depth():
  model = dataclasses.replace(MODEL, depth=9)
  gaps = [
    np.diff(np.flatnonzero(kept_layers(d, ElasticConfig(), model))).max() for d in range(2, 10)
  ]
  assert gaps == sorted(gaps, reverse=True) and gaps[1] <= 8 and gaps[4] == 2 and gaps[-1] == 1


@pytest.mark.parametrize(
  ("name", "told"),
  [
    ("4x8", "not of the form"),
    ("axbxc", "not of the form"),
    ("-1x8x4", "not of the form"),
    ("7x8x4", "depth 7, but this model has 2 to 6"),
    ("1x8x4", "depth 1, but this model has 2 to 6"),
    ("6x9x4", "9 experts, but this model has 8"),
    ("6x8x5", "top-k 5, but at most 4"),
    ("6x2x3", "top-k 3, but at most 2"),
    ("6x8x0", "top-k 0"),
    ("6x0x1", "0 experts"),
  ],
)
def test_an_impossible_member_is_told_with_what_is_possible(name, told):
  model = dataclasses.replace(MODEL, top_layers=2)
  with pytest.raises(UserError, match=f"--member: .*{told}"):
    parse_member(name, model, key="--member")


def test_members_are_named_as_they_are_written_and_the_full_one_comes_first():
  elastic = ElasticConfig(members=("4x8x2", "6x8x4", "4 X 8 x 2"))
  assert [m.name for m in members_of(elastic, MODEL)] == ["6x8x4", "4x8x2"]
  assert parse_member("6x8x4", MODEL) == full_member(MODEL) == Member(6, 8, 4)


@pytest.mark.parametrize(
  ("change", "told"),
  [
    ({"members": ("9x8x4",)}, "config.elastic.members"),
    ({"min_depth": 6}, "config.elastic.min_depth"),
    ({"widths": (3,)}, "config.elastic.widths"),
    ({"widths": (9,)}, "config.elastic.widths"),
  ],
)
def test_a_family_that_the_model_cannot_hold_is_refused(change, told):
  with pytest.raises(UserError, match=told):
    check_family(ElasticConfig(**change), MODEL)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**16), count=st.integers(1, 8))
def test_the_most_used_experts_are_kept(seed, count):
  usage = np.random.default_rng(seed).integers(0, 5, (3, 8)).astype(np.float32)  # with ties
  kept = np.asarray(used_experts(usage, count))
  assert (kept.sum(-1) == count).all()
  for layer in range(3):
    dropped = usage[layer][~kept[layer]]
    assert not dropped.size or usage[layer][kept[layer]].min() >= dropped.max()


def draws(elastic, model=MODEL, rows=4000, seed=0):
  return jax.device_get(sample(jax.random.key(seed), rows, elastic=elastic, model=model))


@pytest.mark.parametrize("choice", CHOICES)
def test_draws_have_the_reports_probabilities_and_are_independent(choice):
  active = draws(ElasticConfig(layer_choice=choice, widths=(4, 6), min_depth=2))
  depth, width = active.layers.sum(0), active.experts.sum(-1)
  assert (width == width[0]).all()
  full = np.stack([depth == 6, width[0] == 8, active.top_k == 4])
  # Five standard deviations of a share of 4,000 draws.
  np.testing.assert_allclose(full.mean(1), [0.75, 0.8, 0.8], atol=0.035)
  correlation = np.corrcoef(full)
  np.testing.assert_allclose(correlation, np.eye(3), atol=0.08)
  assert set(depth) == {2, 3, 4, 5, 6} and set(width[0]) == {4, 6, 8}
  assert set(active.top_k) == {1, 2, 3, 4}
  smaller = depth[depth < 6]
  shares = [(smaller == d).mean() for d in range(2, 6)]
  np.testing.assert_allclose(shares, [0.25] * 4, atol=0.07)
  each = active.experts[:, width[0] == 4].mean(1)  # every expert is as likely as another
  np.testing.assert_allclose(each, np.full((6, 8), 0.5), atol=0.13)


@settings(deadline=None, max_examples=25)
@given(
  seed=st.integers(0, 2**16),
  top=st.integers(0, 6),
  low=st.integers(1, 5),
  choice=st.sampled_from(CHOICES),
)
def test_a_draw_never_drops_the_top_nor_goes_below_the_least(seed, top, low, choice):
  model = dataclasses.replace(MODEL, top_layers=top)
  elastic = ElasticConfig(depth_full=0.0, min_depth=low, layer_choice=choice, min_top_k=2)
  active = draws(elastic, model, rows=16, seed=seed)
  assert active.layers[6 - max(1, top) :].all()
  assert active.layers.sum(0).min() >= max(low, top)
  assert active.top_k.min() >= 2 and active.experts.sum(-1).min() >= 4
  if choice != "random":
    known = [kept_layers(d, elastic, model).tolist() for d in range(1, 7)]
    assert all(row.tolist() in known for row in active.layers.T)


def test_before_the_first_step_of_the_family_every_row_is_full():
  elastic = ElasticConfig(depth_full=0.0, width_full=0.0, sparsity_full=0.0, first_step=3)
  key = jax.random.key(0)
  drawn = [sample(key, 4, elastic=elastic, model=MODEL, step=step) for step in (2, 3)]
  assert np.all(drawn[0].is_full(MODEL))
  assert not np.any(drawn[1].is_full(MODEL))
  always = sample(key, 4, elastic=dataclasses.replace(elastic, first_step=0), model=MODEL)
  jax.tree.map(np.testing.assert_array_equal, drawn[1], always)


@pytest.mark.parametrize("granularity", ["row", "step"])
def test_the_same_key_draws_the_same(granularity):
  elastic = ElasticConfig(
    granularity=granularity, depth_full=0.2, width_full=0.2, sparsity_full=0.2
  )
  first, again, other = (draws(elastic, rows=64, seed=s) for s in (3, 3, 4))
  jax.tree.map(np.testing.assert_array_equal, first, again)
  assert first.by_row == (granularity == "row")
  same = jax.tree.map(lambda a, b: np.array_equal(a, b), first, other)
  assert not all(jax.tree.leaves(same))


@pytest.mark.parametrize("granularity", ["row", "step"])
def test_with_probabilities_of_one_every_draw_is_the_plain_model(granularity):
  model, params, bias, _ = family("plain")
  rows = batch()
  elastic = dataclasses.replace(PLAIN, granularity=granularity)
  assert not elastic.trains_family
  active = sample(jax.random.key(0), 3, elastic=elastic, model=model)
  assert np.all(active.is_full(model))
  got = forward(model)(params, bias, rows, active)
  np.testing.assert_allclose(got, forward(model)(params, bias, rows), rtol=1e-5, atol=1e-5)


def loss_of(model, bias, rows):
  def loss(params, active):
    output = UnifiedModel(model).apply({"params": params}, rows, bias, active)
    return text_loss(output, rows, params, model).weighed

  return loss


@pytest.mark.parametrize("granularity", ["row", "step"])
def test_what_does_not_run_gets_no_gradient(granularity):
  model, params, bias, _ = family("plain")
  lead = (3,) if granularity == "row" else ()
  layers = jnp.ones((4, *lead), bool).at[1].set(False)
  experts = jnp.ones((4, *lead, 4), bool).at[..., 2].set(False)
  active = sample(
    jax.random.key(0), 3, elastic=dataclasses.replace(PLAIN, granularity=granularity), model=model
  )
  active = active.replace(layers=layers, experts=experts)
  grads = jax.jit(jax.grad(loss_of(model, bias, batch())))(params, active)["stack"]["layers"]
  for path, leaf in jax.tree_util.tree_flatten_with_path(grads)[0]:
    name = jax.tree_util.keystr(path)
    assert not leaf[1].any(), name
    assert leaf[0].any() and leaf[3].any(), name
    if "experts" in name:
      assert not leaf[:, 2].any(), name
      assert leaf[0].any(axis=(1, 2)).sum() == 3, name
    if "router" in name:
      assert not leaf[..., 2].any(), name


def test_a_draw_for_the_step_really_skips_layers():
  model, params, bias, _ = family("unrolled top")
  loss, rows = loss_of(model, bias, batch()), batch()
  conds = {}
  for granularity in ("row", "step"):
    elastic = dataclasses.replace(PLAIN, granularity=granularity)
    active = sample(jax.random.key(0), len(rows.kind), elastic=elastic, model=model)
    conds[granularity] = str(jax.make_jaxpr(loss)(params, active)).count("= cond[")
  # The body of the scanned layers, and each of the two unrolled ones.
  assert conds["step"] - conds["row"] == 3


@pytest.mark.parametrize("name", ["dense below", "unrolled top"])
def test_a_draw_for_the_step_equals_the_same_draw_for_every_row(name):
  model, params, bias, _ = family(name)
  elastic = ElasticConfig(granularity="step", depth_full=0.0, width_full=0.0, sparsity_full=0.0)
  rows = batch()
  active = sample(jax.random.key(1), 3, elastic=elastic, model=model)
  assert active.layers.sum() < model.depth
  spread = lambda a: jnp.repeat(a[:, None], 3, axis=1)
  by_row = active.replace(
    layers=spread(active.layers), experts=spread(active.experts), top_k=jnp.repeat(active.top_k, 3)
  )
  run = forward(model)
  got, wanted = (run(params, bias, rows, a) for a in (active, by_row))
  live = rows.kind > 0
  np.testing.assert_allclose(got[live], wanted[live], rtol=1e-5, atol=1e-5)
