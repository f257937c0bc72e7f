"""A member cut out of the family computes what the full model computes under the member's masks."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_family import MODELS, batch, family, forward

from ernie_jax.backbone.parameters import model_cost
from ernie_jax.elastic.family import ElasticConfig, Member, activate, kept_layers, parse_member
from ernie_jax.elastic.slicing import member_config, slice_params

ELASTIC = ElasticConfig()


def masked_and_sliced(name, member, usage=None, elastic=ELASTIC):
  """Logits of live positions, by masks on the full model and by the sliced one."""
  model, params, bias, own_usage = family(name)
  usage = own_usage if usage is None else usage
  kinds = {"elastic": elastic, "model": model}
  masked = forward(model)(params, bias, batch(), activate(member, usage, **kinds))
  sliced = slice_params(params, bias, usage, member, **kinds)
  own = forward(sliced.model)(sliced.params, sliced.bias, batch())
  live = batch().kind > 0
  return np.asarray(masked)[live], np.asarray(own)[live], sliced


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("member", ["4x2x2", "2x3x1"])
def test_a_sliced_member_equals_the_masked_one(name, member):
  member = parse_member(member, MODELS[name])
  masked, own, sliced = masked_and_sliced(name, member)
  np.testing.assert_allclose(own, masked, rtol=1e-5, atol=1e-5)
  assert (sliced.model.depth, sliced.model.experts, sliced.model.top_k) == dataclasses.astuple(
    member
  )
  assert sliced.bias.shape == sliced.usage.shape == (member.depth, member.experts)
  model, params, bias, _ = family(name)
  full = np.asarray(forward(model)(params, bias, batch()))[batch().kind > 0]
  assert np.abs(own - full).max() > 1e-2


def test_the_whole_model_is_its_own_slice():
  member = Member(4, 4, 2)
  masked, own, sliced = masked_and_sliced("dense below", member)
  np.testing.assert_array_equal(own, masked)
  model, params, _, _ = family("dense below")
  jax.tree.map(np.testing.assert_array_equal, sliced.params, params)
  assert sliced.model == model


def test_the_choice_of_layers_is_that_of_the_config():
  elastic = ElasticConfig(layer_choice="prefix")
  masked, own, _ = masked_and_sliced("plain", Member(3, 4, 2), elastic=elastic)
  np.testing.assert_allclose(own, masked, rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**16))
def test_it_holds_for_any_use_of_the_experts(seed):
  usage = np.random.default_rng(seed).integers(0, 3, (4, 4)).astype(np.float32)  # with ties
  masked, own, _ = masked_and_sliced("plain", Member(3, 2, 1), usage)
  np.testing.assert_allclose(own, masked, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_slice_has_the_parameters_of_its_config(name):
  model, params, bias, usage = family(name)
  for depth in range(max(1, model.top_layers), 5):
    member = Member(depth, 3, 1)
    sliced = slice_params(params, bias, usage, member, elastic=ELASTIC, model=model)
    size = sum(x.size for x in jax.tree.leaves(sliced.params))
    assert size == model_cost(sliced.model, 8).params_total
    kept = kept_layers(depth, ELASTIC, model)
    assert sliced.model.dense_layers == kept[: model.dense_layers].sum()
    assert sliced.model == member_config(member, elastic=ELASTIC, model=model)


def test_slicing_leaves_the_family_as_it_was():
  model, params, bias, usage = family("plain")
  before = jax.tree.map(np.copy, (params, bias, usage))
  slice_params(params, bias, usage, Member(2, 2, 1), elastic=ELASTIC, model=model)
  jax.tree.map(np.testing.assert_array_equal, (params, bias, usage), before)
