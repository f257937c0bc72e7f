"""Grouped matmul: every back end equals the dense reference, in values and gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_jax.errors import UserError
from ernie_jax.kernels.blocked import block_sizes, cut
from ernie_jax.kernels.grouped_matmul import grouped_matmul, reference
from ernie_jax.kernels.megablox import megablox

# One number of experts throughout, so that each back end is compiled once.
SIZES = {
  "unaligned": [3, 17, 1, 36, 2, 2],
  "empty groups first, inside and last": [0, 29, 0, 0, 11, 0],
  "all rows in one group": [0, 0, 61, 0, 0, 0],
  "no rows at all": [0, 0, 0, 0, 0, 0],
  "full": [10, 10, 10, 10, 13, 11],
}
BACKENDS = {
  "blocked": lambda x, w, sizes: grouped_matmul(x, w, sizes, backend="blocked"),
  "ragged": lambda x, w, sizes: grouped_matmul(x, w, sizes, backend="ragged"),
  "megablox": lambda x, w, sizes: megablox(x, w, sizes, 1, True),
}


def _problem(sizes, rows=64, width=24, out=16, dtype=jnp.float32):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(rows, width)).astype(np.float32)
  x[sum(sizes) :] = np.nan
  w = rng.normal(size=(len(sizes), width, out))
  dy = rng.normal(size=(rows, out)).astype(np.float32)
  dy[sum(sizes) :] = np.nan
  return (
    jnp.asarray(x, dtype),
    jnp.asarray(w, dtype),
    jnp.asarray(sizes, jnp.int32),
    jnp.asarray(dy),
  )


def _by_hand(x, w, sizes, dy):
  """Group by group in NumPy: the output, dx and dw."""
  x, w, dy = (np.asarray(a, np.float64) for a in (x, w, dy))
  out, dx, dw = np.zeros((len(x), w.shape[2])), np.zeros_like(x), np.zeros_like(w)
  start = 0
  for e, size in enumerate(np.asarray(sizes)):
    rows = slice(start, start + size)
    out[rows], dx[rows] = x[rows] @ w[e], dy[rows] @ w[e].T
    dw[e] = x[rows].T @ dy[rows]
    start += size
  return out, dx, dw


@partial(jax.jit, static_argnames="kernel")
def _with_gradients(kernel, x, w, sizes, dy):
  """The output, dx and dw."""
  out, back = jax.vjp(lambda x, w: kernel(x, w, sizes), x, w)
  return out, *back(dy.astype(out.dtype))


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("kernel", [reference, *BACKENDS.values()], ids=["reference", *BACKENDS])
def test_values_and_gradients_equal_a_group_by_group_product_and_nan_in_the_tail_stays_there(
  kernel, sizes
):
  x, w, sizes, dy = _problem(sizes)
  want = _by_hand(x, w, sizes, dy)
  for got, expected in zip(_with_gradients(kernel, x, w, sizes, dy), want):
    np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize("kernel", BACKENDS.values(), ids=BACKENDS)
def test_bfloat16_rows_are_accumulated_in_float32(kernel):
  x, w, sizes, dy = _problem(SIZES["unaligned"], width=40, dtype=jnp.bfloat16)
  dy = dy.astype(jnp.bfloat16)
  want = _by_hand(x, w, sizes, dy)
  for got, expected in zip(_with_gradients(kernel, x, w, sizes, dy), want):
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype(jnp.float32), expected, rtol=2**-8, atol=1e-3)


def test_the_blocked_loops_read_no_weight_of_an_expert_without_rows():
  x, w, sizes, dy = _problem(SIZES["empty groups first, inside and last"])
  poisoned = jnp.where((sizes == 0)[:, None, None], jnp.nan, w)
  clean = _with_gradients(BACKENDS["blocked"], x, w, sizes, dy)
  for a, b in zip(clean, _with_gradients(BACKENDS["blocked"], x, poisoned, sizes, dy)):
    np.testing.assert_array_equal(a, b)


@given(
  rows=st.integers(1, 9000),
  weights=st.lists(st.integers(0, 20), min_size=1, max_size=9).filter(any),
)
@settings(deadline=None, max_examples=50)
def test_blocks_cover_every_group_with_rows_once_and_fit_the_buffer(rows, weights):
  sizes = np.asarray(weights) * rows // sum(weights)
  groups = cut(jnp.asarray(sizes), block_sizes(rows, len(sizes)))
  order, first = np.asarray(groups.order_E), np.asarray(groups.first_C)
  visited = []
  for size_class, block in enumerate(groups.sizes):
    for e in order[first[size_class] : first[size_class + 1]]:
      visited.append(e)
      computed = block * int(groups.count_E[e])
      assert sizes[e] <= computed
      assert block <= rows
  np.testing.assert_array_equal(np.sort(visited), np.flatnonzero(sizes))


@pytest.mark.parametrize(
  ("x", "w", "sizes"),
  [((8, 3), (2, 4, 5), (2,)), ((8, 4), (2, 4, 5), (3,)), ((4,), (2, 4, 5), (2,))],
)
def test_shapes_that_do_not_fit_are_refused(x, w, sizes):
  with pytest.raises(ValueError, match="fit"):
    grouped_matmul(jnp.zeros(x), jnp.zeros(w), jnp.zeros(sizes, jnp.int32))


def test_an_unknown_back_end_is_a_user_error():
  x, w, sizes, _ = _problem([64])
  with pytest.raises(UserError, match="cuda"):
    grouped_matmul(x, w, sizes, backend="cuda")
