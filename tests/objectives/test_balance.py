"""Losses of modalities divided by what they were: their size, their gradient, and modalities that are not there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_jax.objectives import balance

NAMES = ("text", "bits")


def seen(text: float, bits: float, *, count: float = 1.0) -> balance.Observed:
  losses = {"text": jnp.float32(text), "bits": jnp.float32(bits)}
  return balance.observed(losses, {"text": jnp.float32(1), "bits": jnp.float32(count)})


@settings(deadline=None, max_examples=20)
@given(st.floats(0.01, 10), st.floats(0.01, 10), st.integers(1, 30))
def test_losses_that_stay_as_they_are_all_enter_as_one(text, bits, steps):
  means = balance.no_means(NAMES)
  for _ in range(steps):
    means = balance.updated(means, seen(text, bits), decay=0.9)
  scales = balance.scales(means)
  np.testing.assert_allclose([text * scales["text"], bits * scales["bits"]], 1, rtol=1e-5)


def test_the_mean_is_that_of_the_steps_weighed_by_their_age():
  means = balance.no_means(NAMES)
  for value in (4.0, 2.0, 1.0):
    means = balance.updated(means, seen(value, 1.0), decay=0.5)
  mean = means.total["text"] / means.weight["text"]
  np.testing.assert_allclose(mean, (0.25 * 4 + 0.5 * 2 + 1) / 1.75, rtol=1e-6)


def test_the_gradient_is_that_of_the_logarithm():
  means = balance.updated(balance.no_means(NAMES), seen(0.5, 4.0), decay=0.9)
  for name, loss in (("text", 0.5), ("bits", 4.0)):
    of = lambda x, name=name, loss=loss: loss * x * balance.scales(means)[name]
    assert jax.grad(of)(1.0) == pytest.approx(1.0)


def test_a_modality_that_is_not_there_keeps_its_mean_and_adds_nothing():
  first = balance.updated(balance.no_means(NAMES), seen(1.0, 3.0), decay=0.9)
  after = balance.updated(first, seen(2.0, jnp.nan, count=0.0), decay=0.9)
  assert after.total["bits"] == first.total["bits"] and after.weight["bits"] == first.weight["bits"]
  assert after.weight["text"] > first.weight["text"]


def test_a_loss_that_was_never_seen_stays_as_it_is():
  means = balance.updated(balance.no_means(NAMES), seen(2.0, 0.0, count=0.0), decay=0.9)
  assert jax.tree.map(float, balance.scales(means)) == {"text": 0.5, "bits": 1.0}


def test_micro_batches_count_as_the_mean_of_those_that_have_the_modality():
  both = jax.tree.map(jnp.add, seen(1.0, 3.0), seen(3.0, 9.0, count=0.0))
  means = balance.updated(balance.no_means(NAMES), both, decay=0.9)
  np.testing.assert_allclose(means.total["text"], 2.0)
  np.testing.assert_allclose(means.total["bits"], 3.0)
