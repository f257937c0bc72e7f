"""Grouped matmul by `jax.lax.ragged_dot`, with a weight gradient of our own: what the GPU runs.

On GPU `ragged_dot` is reported grouped in its forward pass and row gradient, while its weight gradient may
multiply every row by every expert and hold E copies of the buffer. The weight gradient is therefore the loop
over blocks of `blocked`, whose work and memory are those of the rows.

M rows of the buffer, D width of a row, E experts (groups), F width of the output.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from ernie_jax.kernels.blocked import weight_gradient


def zero_dead_rows(x_MD: Float[Array, "M D"], group_sizes_E: Int[Array, "E"]):
  """`x_MD` with zeros in the rows past the last group, whatever lies there."""
  live_M = jnp.arange(x_MD.shape[0]) < jnp.sum(group_sizes_E)
  return jnp.where(live_M[:, None], x_MD, 0)


@jax.custom_vjp
def ragged(
  x_MD: Float[Array, "M D"], w_EDF: Float[Array, "E D F"], group_sizes_E: Int[Array, "E"]
) -> Float[Array, "M F"]:
  """`grouped_matmul` by `jax.lax.ragged_dot`; float32 accumulation, output in the dtype of `x_MD`."""
  return _rows_times(x_MD, w_EDF, group_sizes_E)


def _rows_times(x_MD, w_EDF, group_sizes_E):
  x_MD = zero_dead_rows(x_MD, group_sizes_E)
  sizes = group_sizes_E.astype(jnp.int32)
  out_MF = lax.ragged_dot(x_MD, w_EDF, sizes, preferred_element_type=jnp.float32)
  return zero_dead_rows(out_MF, group_sizes_E).astype(x_MD.dtype)


def _forward(x_MD, w_EDF, group_sizes_E):
  return ragged(x_MD, w_EDF, group_sizes_E), (x_MD, w_EDF, group_sizes_E)


def _backward(saved, dy_MF):
  x_MD, w_EDF, group_sizes_E = saved
  dx_MD = _rows_times(dy_MF, w_EDF.swapaxes(1, 2), group_sizes_E).astype(x_MD.dtype)
  return dx_MD, weight_gradient(x_MD, dy_MF, group_sizes_E).astype(w_EDF.dtype), None


ragged.defvjp(_forward, _backward)
