"""Grouped matmul: every back end equals the dense reference, in values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ernie_jax.errors import UserError
from ernie_jax.kernels.grouped_matmul import grouped_matmul, reference
from ernie_jax.kernels.megablox import megablox

SIZES = {
  "unaligned": [3, 17, 1, 40],
  "empty groups first, inside and last": [0, 29, 0, 0, 11, 0],
  "all rows in one group": [0, 0, 61, 0],
  "no rows at all": [0, 0, 0],
  "full": [20, 23, 21],
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


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("kernel", [reference, *BACKENDS.values()], ids=["reference", *BACKENDS])
def test_values_and_gradients_equal_a_group_by_group_product_and_nan_in_the_tail_stays_there(
  kernel, sizes
):
  x, w, sizes, dy = _problem(sizes)
  want = _by_hand(x, w, sizes, dy)
  out, back = jax.vjp(lambda x, w: kernel(x, w, sizes), x, w)
  for got, expected in zip((out, *back(dy)), want):
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_an_unknown_back_end_is_a_user_error():
  x, w, sizes, _ = _problem([64])
  with pytest.raises(UserError, match="cuda"):
    grouped_matmul(x, w, sizes, backend="cuda")
