"""Grouped matmul as loops over row blocks: portable XLA, and what the CPU runs.

Every group of rows is cut evenly into blocks of one of a few static sizes; for each size one loop with a
traced trip count visits the groups that chose it. So a group costs its own rows rounded up to the next
size, an empty group and the tail past the last group cost nothing, and no weight of an unused expert is
read. Blocks may start anywhere: rows of a block that belong to another group are masked, which is also what
keeps NaN out of them. (`jax.lax.ragged_dot` multiplies every row by every expert on CPU.)

M rows of the buffer, D width of a row, E experts (groups), F width of the output, R rows of a block.
"""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

LARGEST_MEAN = 384  # rows; larger blocks gain nothing, so larger groups are cut into several
SMALL_BUFFER = 4096  # rows


@flax.struct.dataclass
class Groups:
  """Where each group lies and how it is cut: into `count` blocks of one size.

  `order_E` lists the groups by size, those of `sizes[c]` from `first_C[c]` to `first_C[c + 1]`.
  """

  start_E: Int[Array, "E"]
  end_E: Int[Array, "E"]
  count_E: Int[Array, "E"]
  order_E: Int[Array, "E"]
  first_C: Int[Array, "C"]
  sizes: tuple[int, ...] = flax.struct.field(pytree_node=False)


def block_sizes(rows: int, num_groups: int) -> tuple[int, ...]:
  """The static block sizes for a buffer of `rows`: multiples of 16 around the mean group, a few beyond.

  Our choice, measured on CPU: each size costs compile time, and below 16 rows a matmul costs nearly what 16
  rows cost. The step just above the mean is the finest, because balanced groups lie there. Of a small buffer
  compiling is most of the cost: it has few sizes, and groups beyond the mean are cut.
  """
  mean = max(1, min(rows // num_groups, LARGEST_MEAN))
  eighths = (4, 9) if rows < SMALL_BUFFER else (2, 4, 6, 8, 9, 12, 16)
  sizes = {16} | {-(-mean * n // 128) * 16 for n in eighths} | ({1, 4} if mean < 16 else set())
  return tuple(size for size in sorted(sizes) if size <= rows)


def cut(group_sizes_E: Int[Array, "E"], sizes: tuple[int, ...]) -> Groups:
  """Cut every group evenly into blocks of the smallest size in `sizes` that covers it."""
  group_sizes_E = group_sizes_E.astype(jnp.int32)
  end_E = jnp.cumsum(group_sizes_E)
  count_E = -(-group_sizes_E // sizes[-1])
  rows_E = -(-group_sizes_E // jnp.maximum(count_E, 1))
  class_E = jnp.searchsorted(jnp.asarray(sizes), rows_E, method="compare_all")
  class_E = jnp.where(group_sizes_E > 0, class_E, len(sizes))
  first_C = jnp.sum(class_E < jnp.arange(len(sizes) + 1)[:, None], axis=1, dtype=jnp.int32)
  return Groups(end_E - group_sizes_E, end_E, count_E, jnp.argsort(class_E), first_C, sizes)


def for_each_block(groups: Groups, body: Callable, carry):
  """Fold `body(carry, expert, first_row, rows) -> carry` over every block; `rows` is a static int."""
  for size_class, rows in enumerate(groups.sizes):

    def one_group(i, carry, rows=rows):
      e = groups.order_E[i]

      def one_block(j, carry):
        return body(carry, e, groups.start_E[e] + j * rows, rows)

      return lax.fori_loop(0, groups.count_E[e], one_block, carry)

    first, stop = groups.first_C[size_class], groups.first_C[size_class + 1]
    carry = lax.fori_loop(first, stop, one_group, carry)
  return carry


def own_rows(groups: Groups, expert, first_row, rows: int, total: int):
  """(clamped start, bool [R, 1]): which rows of the block at `first_row` are new to it and in its group."""
  start = jnp.minimum(first_row, total - rows)
  index_R = start + jnp.arange(rows)
  return start, ((index_R >= first_row) & (index_R < groups.end_E[expert]))[:, None]


def contract(a, b, axes):
  return lax.dot_general(a, b, (axes, ((), ())), preferred_element_type=jnp.float32)


def _rows_times(x_MD, w_EDF, group_sizes_E, contracted: int):
  """x @ w of its group, contracting axis `contracted` (0 or 1) of the group's matrix."""
  total = x_MD.shape[0]
  groups = cut(group_sizes_E, block_sizes(total, w_EDF.shape[0]))

  def body(out, e, first_row, rows):
    start, own = own_rows(groups, e, first_row, rows, total)
    w = lax.dynamic_index_in_dim(w_EDF, e, keepdims=False)
    x = lax.dynamic_slice_in_dim(x_MD, start, rows)
    y = contract(x, w, ((1,), (contracted,))).astype(out.dtype)
    old = lax.dynamic_slice_in_dim(out, start, rows)
    return lax.dynamic_update_slice_in_dim(out, jnp.where(own, y, old), start, 0)

  width = w_EDF.shape[2 - contracted]
  return for_each_block(groups, body, jnp.zeros((total, width), x_MD.dtype))


def weight_gradient(
  x_MD: Float[Array, "M D"], dy_MF: Float[Array, "M F"], group_sizes_E: Int[Array, "E"]
) -> Float[Array, "E D F"]:
  """Sum of outer(x, dy) over the rows of each group, in float32; zeros for an empty group."""
  total, num_groups = x_MD.shape[0], group_sizes_E.shape[0]
  groups = cut(group_sizes_E, block_sizes(total, num_groups))

  def body(dw, e, first_row, rows):
    start, own = own_rows(groups, e, first_row, rows, total)
    x = jnp.where(own, lax.dynamic_slice_in_dim(x_MD, start, rows), 0)
    dy = jnp.where(own, lax.dynamic_slice_in_dim(dy_MF, start, rows), 0)
    old = lax.dynamic_index_in_dim(dw, e, keepdims=False)
    return lax.dynamic_update_index_in_dim(dw, old + contract(x, dy, ((0,), (0,))), e, 0)

  zeros = jnp.zeros((num_groups, x_MD.shape[1], dy_MF.shape[1]), jnp.float32)
  return for_each_block(groups, body, zeros)


@jax.custom_vjp
def blocked(
  x_MD: Float[Array, "M D"], w_EDF: Float[Array, "E D F"], group_sizes_E: Int[Array, "E"]
) -> Float[Array, "M F"]:
  """`grouped_matmul` by loops over blocks; float32 accumulation, output in the dtype of `x_MD`."""
  return _rows_times(x_MD, w_EDF, group_sizes_E, 0)


def _forward(x_MD, w_EDF, group_sizes_E):
  return blocked(x_MD, w_EDF, group_sizes_E), (x_MD, w_EDF, group_sizes_E)


def _backward(saved, dy_MF):
  x_MD, w_EDF, group_sizes_E = saved
  dx_MD = _rows_times(dy_MF, w_EDF, group_sizes_E, 1)
  dw_EDF = weight_gradient(x_MD, dy_MF, group_sizes_E)
  return dx_MD.astype(x_MD.dtype), dw_EDF.astype(w_EDF.dtype), None


blocked.defvjp(_forward, _backward)
