"""Resizing by fixed matrices, one per pair of sizes, built in NumPy and applied by einsum.

Why not a library call: cubic kernels, edge rules and the bins of "area" differ between libraries and
versions, and a tokenizer whose training, corruption and sampling resize differently is broken without
saying so. These matrices are the same everywhere.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Method = Literal["area", "linear"]


@functools.cache
def area_matrix(source: int, target: int) -> Float[np.ndarray, "target source"]:
  """Each target cell is the mean of the source cells that it covers, weighted by how much of each.

  Exact fractions also where the sizes do not divide (torch's "area" takes whole, overlapping cells).
  """
  edges = np.arange(target + 1) * (source / target)
  cells = np.arange(source)
  covered = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
  return (np.maximum(covered, 0.0) * (target / source)).astype(np.float32)


@functools.cache
def linear_matrix(source: int, target: int) -> Float[np.ndarray, "target source"]:
  """Linear interpolation between cell centres, clamped at the edges, without antialiasing."""
  at = np.clip((np.arange(target) + 0.5) * (source / target) - 0.5, 0, source - 1)
  low = np.minimum(np.floor(at).astype(int), max(source - 2, 0))
  high = np.minimum(low + 1, source - 1)
  matrix = np.zeros((target, source))
  np.add.at(matrix, (np.arange(target), low), 1 - (at - low))
  np.add.at(matrix, (np.arange(target), high), at - low)
  return matrix.astype(np.float32)


_MATRICES = {"area": area_matrix, "linear": linear_matrix}


def resize(x: Float[Array, "*n h w c"], side: int, method: Method) -> Float[Array, "*n H W c"]:
  """Resizes square maps to `side` x `side`, in full float32 precision on every device."""
  source = x.shape[-2]
  if source == side:
    return x
  matrix = _MATRICES[method](source, side)
  rows = jnp.einsum("Hh,...hwc->...Hwc", matrix, x, precision=jax.lax.Precision.HIGHEST)
  return jnp.einsum("Ww,...hwc->...hWc", matrix, rows, precision=jax.lax.Precision.HIGHEST)
