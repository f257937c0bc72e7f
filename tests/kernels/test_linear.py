"""The linear product and the gradient of its kernel, against einsum and its own gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.ad_checkpoint import saved_residuals

from ernie_jax.backbone.block import REMAT_POLICIES
from ernie_jax.kernels import linear as linear_lib
from ernie_jax.kernels.linear import linear, sum_of_outer, transposed


def normal(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize(
  ("x", "kernel", "in_axes", "formula"),
  [
    ((5, 3), (3, 4), 1, "ti,io->to"),
    ((2, 5, 3), (3, 4, 2), 1, "bti,ioh->btoh"),
    ((2, 5, 4, 2), (4, 2, 3), 2, "btoh,ohi->bti"),
    ((1, 0, 3), (3, 4), 1, "bti,io->bto"),
    ((3,), (3, 4), 1, "i,io->o"),
  ],
)
def test_values_and_gradients_are_those_of_einsum(x, kernel, in_axes, formula):
  x, kernel = normal(0, *x), normal(1, *kernel)
  plain = lambda x, kernel: jnp.einsum(formula, x, kernel)
  value, pull = jax.vjp(lambda x, kernel: linear(x, kernel, in_axes), x, kernel)
  wanted, pull_wanted = jax.vjp(plain, x, kernel)
  np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6)
  dy = normal(2, *value.shape)
  for found, right in zip(pull(dy), pull_wanted(dy)):
    assert found.shape == right.shape
    np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-5)


def test_half_precision_gives_gradients_of_its_type_and_sums_in_the_type_asked_for():
  x, kernel = normal(0, 64, 8).astype(jnp.bfloat16), normal(1, 8, 4).astype(jnp.bfloat16)
  y, pull = jax.vjp(linear, x, kernel)
  dx, dkernel = pull(jnp.ones_like(y))
  assert y.dtype == dx.dtype == dkernel.dtype == jnp.bfloat16
  exact = sum_of_outer(x, y, dtype=jnp.float32)
  assert exact.dtype == jnp.float32
  wide = np.asarray(x, np.float32).T @ np.asarray(y, np.float32)
  np.testing.assert_allclose(exact, wide, rtol=1e-5, atol=1e-4)


def test_the_copy_is_a_transposition():
  x = normal(0, 6, 4, 3)
  np.testing.assert_array_equal(transposed(x, 2), np.moveaxis(np.asarray(x), 2, 0))


@pytest.mark.parametrize(("tokens", "formula"), [(1, "abi,aco->bico"), (2, "abi,abo->io")])
def test_every_platform_sums_the_same_and_the_copy_is_made_on_cpu_alone(tokens, formula):
  x, y = normal(0, 6, 4, 3), normal(1, 6, 4, 2)
  for summed in (linear_lib._copied, linear_lib._plain):
    found = summed(x, y, tokens=tokens, dtype=None)
    np.testing.assert_allclose(found, jnp.einsum(formula, x, y), rtol=1e-5, atol=1e-5)
  lowered = jax.jit(lambda x, y: sum_of_outer(x, y, tokens=tokens)).trace(x, y)
  on = {name: lowered.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "tpu")}
  assert "optimization_barrier" in on["cpu"] and "optimization_barrier" not in on["tpu"]


def test_what_keeps_the_results_of_products_keeps_these():
  """A policy that saves products and recomputes the rest must not see a function that it cannot look into."""

  @functools.partial(jax.checkpoint, policy=REMAT_POLICIES["dots"])
  def two_layers(x, first, second):
    return jnp.sum(jnp.sin(linear(jnp.sin(linear(x, first)), second)))

  shapes = normal(0, 5, 3), normal(1, 3, 4), normal(2, 4, 7)
  saved = [
    aval.shape for aval, where in saved_residuals(two_layers, *shapes) if "argument" not in where
  ]
  assert sorted(saved) == [(5, 4), (5, 7)]
