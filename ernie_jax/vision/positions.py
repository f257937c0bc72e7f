"""Positions of a grid of patches, and their interpolation to grids of other sizes.

Learned positions are resized by a fixed bicubic matrix for each axis, made in NumPy: a = -0.75, clamped
edges, no antialiasing, which is torch's bicubic and so what transformers does. (`jax.image.resize` has
a = -0.5 and antialiasing.) Sin-cos positions are evaluated at the other grid's centres.

Letters: h w grid, D width.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Grid = tuple[int, int]

_CUBIC = -0.75


def resize(table: Float[Array, "n D"], trained: Grid, grid: Grid) -> Float[Array, "m D"]:
  """Learned positions of the grid they were trained on, row by row, for another grid."""
  if trained == grid:
    return table
  rows, columns = (cubic_matrix(old, new) for old, new in zip(trained, grid))
  plane = table.reshape(*trained, -1)
  plane = jnp.einsum("ij,kl,jld->ikd", rows, columns, plane)
  return plane.reshape(grid[0] * grid[1], -1)


@functools.cache
def cubic_matrix(old: int, new: int) -> Float[np.ndarray, "new old"]:
  """The matrix that resizes a line of `old` samples to `new`, centres of pixels aligned."""
  at = (np.arange(new) + 0.5) * old / new - 0.5
  left = np.floor(at).astype(int)
  matrix = np.zeros((new, old))
  for tap in range(-1, 3):
    column = np.clip(left + tap, 0, old - 1)
    np.add.at(matrix, (np.arange(new), column), _cubic(at - left - tap))
  return matrix.astype(np.float32)


def _cubic(x: np.ndarray) -> np.ndarray:
  """Keys' cubic convolution kernel."""
  a, x = _CUBIC, np.abs(x)
  near = (a + 2) * x**3 - (a + 3) * x**2 + 1
  far = a * (x**3 - 5 * x**2 + 8 * x - 4)
  return np.where(x <= 1, near, np.where(x < 2, far, 0))


@functools.cache
def sincos(trained: Grid, grid: Grid, width: int) -> Float[np.ndarray, "n width"]:
  """Fixed positions in two dimensions: sin x, cos x, sin y, cos y (Beyer et al. 2022).

  A grid of another size is spread over the extent of the trained one.

  Raises:
    ValueError: `width` is no multiple of 4, or below 8.
  """
  if width % 4 or width < 8:
    raise ValueError(f"sin-cos positions need a width of 8, 12, 16, .., got {width}")
  quarter = width // 4
  frequency = 1e4 ** (-np.arange(quarter) / (quarter - 1))
  axes = [(np.arange(n) + 0.5) * old / n - 0.5 for n, old in zip(grid, trained)]
  y, x = (c.reshape(-1, 1) * frequency for c in np.meshgrid(*axes, indexing="ij"))
  return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1).astype(np.float32)
