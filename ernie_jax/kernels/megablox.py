"""Grouped matmul by the Megablox Pallas kernels that ship with JAX: what the TPU runs.

Grouped in all three products: forward, gradient of the rows, gradient of the weights (with the pinned TPU
stack the weight gradient of `jax.lax.ragged_dot` multiplies every row by every expert). The library's own
custom VJP is not used: it passes one tiling to the three products, though they have their widths in different
places, and leaves the rows past the last group uninitialised. Under a mesh, call this inside a `shard_map`
that is manual over every axis.

M rows of the buffer, D width of a row, E experts (groups), F width of the output.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.megablox.gmm import gmm, tgmm
from jaxtyping import Array, Float, Int

from ernie_jax.kernels.ragged import zero_dead_rows

# Rows per tile. A tile that straddles a group boundary is computed once per group, so the waste is about one
# tile per expert: 128, the side of the matrix unit, wastes least; larger tiles pay off only for large groups.
MIN_TILE, MAX_ROWS, MAX_WIDTH = 128, 512, 1024


def _tile(width: int) -> int:
  """The largest tile of a width that is a multiple of 128 and wastes no lane, or the width rounded up."""
  for tile in range(MAX_WIDTH, MIN_TILE - 1, -MIN_TILE):
    if width % tile == 0:
      return tile
  return min(-(-width // MIN_TILE) * MIN_TILE, 4 * MIN_TILE)


def row_tile(rows: int, num_groups: int, alignment: int) -> int:
  """Rows per tile: as large as an eighth of the mean group, or what `alignment` grants."""
  tile = MAX_ROWS
  while tile > MIN_TILE and 8 * tile * num_groups > rows and alignment % tile:
    tile //= 2
  return tile


def _pad_rows(x, tile: int):
  return jnp.pad(x, ((0, -x.shape[0] % tile), (0, 0)))


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def megablox(
  x_MD: Float[Array, "M D"],
  w_EDF: Float[Array, "E D F"],
  group_sizes_E: Int[Array, "E"],
  alignment: int = 1,
  interpret: bool = False,
) -> Float[Array, "M F"]:
  """`grouped_matmul` on TPU; `interpret` runs the kernels' logic on any platform, for tests."""
  return _rows_times(x_MD, w_EDF, group_sizes_E, alignment, interpret, transpose=False)


def _rows_times(x_MD, w_EDF, group_sizes_E, alignment, interpret, *, transpose: bool):
  tile = row_tile(x_MD.shape[0], w_EDF.shape[0], alignment)
  width = w_EDF.shape[1] if transpose else w_EDF.shape[2]
  out = gmm(
    _pad_rows(x_MD, tile),
    w_EDF,
    group_sizes_E.astype(jnp.int32),
    x_MD.dtype,
    (tile, _tile(x_MD.shape[1]), _tile(width)),
    transpose_rhs=transpose,
    interpret=interpret,
  )
  return zero_dead_rows(out[: x_MD.shape[0]], group_sizes_E)


def _forward(x_MD, w_EDF, group_sizes_E, alignment, interpret):
  out = megablox(x_MD, w_EDF, group_sizes_E, alignment, interpret)
  return out, (x_MD, w_EDF, group_sizes_E)


def _backward(alignment, interpret, saved, dy_MF):
  x_MD, w_EDF, group_sizes_E = saved
  dx_MD = _rows_times(dy_MF, w_EDF, group_sizes_E, alignment, interpret, transpose=True)
  tile = row_tile(x_MD.shape[0], w_EDF.shape[0], alignment)
  dw_EDF = tgmm(
    _pad_rows(x_MD, tile).T,
    _pad_rows(dy_MF, tile),
    group_sizes_E.astype(jnp.int32),
    w_EDF.dtype,
    (tile, _tile(x_MD.shape[1]), _tile(dy_MF.shape[1])),
    interpret=interpret,
  )
  return dx_MD.astype(x_MD.dtype), dw_EDF, None


megablox.defvjp(_forward, _backward)
