"""The whole routed SwiGLU MLP as one loop over row blocks: what the CPU runs for a mixture of experts.

A block's rows are gathered from the tokens, go through all three matrices of their expert while they are in
cache, and are written once; the backward loop does the same. On CPU, forward and backward take about two
thirds of the time of three grouped matmuls with their buffers in between. The gate multiplies the hidden
layer, so its gradient is a product that the backward loop has at hand and no output needs to be kept.

T tokens, K choices of a token, M slots of the buffer, E experts, D model width, F expert width, R rows of a
block.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from ernie_jax.kernels.blocked import block_sizes, contract, cut, for_each_block, own_rows
from ernie_jax.kernels.linear import transposed

Weights = tuple[Float[Array, "E D F"], Float[Array, "E D F"], Float[Array, "E F D"]]


def rows_at(x: Float[Array, "N *rest"], index: Int[Array, "*any"]):
  """x[index], zeros where the index is past the end."""
  return x.at[index].get(mode="fill", fill_value=0)


@jax.custom_vjp
def blocked_mlp(
  x_TD: Float[Array, "T D"],
  gates_TK: Float[Array, "T K"],
  weights: Weights,
  assignment_M: Int[Array, "M"],
  slot_TK: Int[Array, "T K"],
  group_sizes_E: Int[Array, "E"],
) -> Float[Array, "T D"]:
  """Sum over the live choices of gate * (silu(x w_gate) * (x w_up)) w_down, weights in that order.

  `assignment_M` is the flat index t * K + k that fills a slot, T * K where none does; `slot_TK` is its
  inverse, M for a dead choice. Accumulates in float32, returns the dtype of `x_TD`.
  """
  buffers = _forward_loop(x_TD, gates_TK, weights, assignment_M, group_sizes_E, keep=False)
  return _sum_choices(buffers["y"], slot_TK)


def _sum_choices(y_MD, slot_TK):
  return jnp.sum(rows_at(y_MD, slot_TK), axis=1, dtype=jnp.float32).astype(y_MD.dtype)


def _expert(w, e):
  return lax.dynamic_index_in_dim(w, e, keepdims=False)


def _store(buffer, block, start, own):
  """Write the rows of a block that are its own."""
  old = lax.dynamic_slice_in_dim(buffer, start, len(block))
  block = jnp.where(own.reshape(own.shape[:1] + (1,) * (block.ndim - 1)), block, old)
  return lax.dynamic_update_slice_in_dim(buffer, block.astype(buffer.dtype), start, 0)


def _tokens_of_block(assignment_M, choices, tokens, start, own):
  """Token index [R] of a block's rows, past the end where a row is not the block's own."""
  assignment_R = lax.dynamic_slice_in_dim(assignment_M, start, len(own))
  return jnp.where(own[:, 0], assignment_R // choices, tokens)


def _forward_loop(x_TD, gates_TK, weights, assignment_M, group_sizes_E, *, keep: bool):
  """Buffers over slots: y (gate included) and, if `keep`, the hidden layer before its activation."""
  w_gate, w_up, w_down = weights
  slots, (num_experts, width, hidden) = len(assignment_M), w_gate.shape
  groups = cut(group_sizes_E, block_sizes(slots, num_experts))
  gate_M = rows_at(gates_TK.reshape(-1), assignment_M)

  def body(buffers, e, first_row, rows):
    start, own = own_rows(groups, e, first_row, rows, slots)
    x = rows_at(x_TD, _tokens_of_block(assignment_M, gates_TK.shape[1], len(x_TD), start, own))
    gate = lax.dynamic_slice_in_dim(gate_M, start, rows)[:, None]
    a = contract(x, _expert(w_gate, e), ((1,), (0,)))
    b = contract(x, _expert(w_up, e), ((1,), (0,)))
    h = (jax.nn.silu(a) * b * gate).astype(x.dtype)
    new = {"y": contract(h, _expert(w_down, e), ((1,), (0,))), "a": a, "b": b}
    return {name: _store(buffer, new[name], start, own) for name, buffer in buffers.items()}

  widths = {"y": width, "a": hidden, "b": hidden} if keep else {"y": width}
  buffers = {name: jnp.zeros((slots, w), x_TD.dtype) for name, w in widths.items()}
  return for_each_block(groups, body, buffers)


def _forward(x_TD, gates_TK, weights, assignment_M, slot_TK, group_sizes_E):
  buffers = _forward_loop(x_TD, gates_TK, weights, assignment_M, group_sizes_E, keep=True)
  saved = (
    x_TD,
    gates_TK,
    weights,
    assignment_M,
    slot_TK,
    group_sizes_E,
    buffers["a"],
    buffers["b"],
  )
  return _sum_choices(buffers["y"], slot_TK), saved


def _block_gradients(x, dy, a, b, gate, w_gate, w_up, w_down) -> dict[str, Any]:
  """Gradients of one block's rows, gates and expert; arguments as in the forward loop."""
  a, b, dtype = a.astype(jnp.float32), b.astype(jnp.float32), x.dtype
  sigmoid = jax.nn.sigmoid(a)
  silu = a * sigmoid
  h = silu * b
  dh = contract(dy, w_down, ((1,), (1,)))
  dgated = dh * gate
  da = (dgated * b * sigmoid * (1 + a * (1 - sigmoid))).astype(dtype)
  db = (dgated * silu).astype(dtype)
  columns = transposed(x)
  return {
    "x": contract(da, w_gate, ((1,), (1,))) + contract(db, w_up, ((1,), (1,))),
    "gate": jnp.sum(dh * h, axis=1),
    "w_gate": contract(columns, da, ((1,), (0,))),
    "w_up": contract(columns, db, ((1,), (0,))),
    "w_down": contract(transposed((gate * h).astype(dtype)), dy, ((1,), (0,))),
  }


def _backward(saved, dout_TD):
  x_TD, gates_TK, weights, assignment_M, slot_TK, group_sizes_E, a_MF, b_MF = saved
  slots = len(assignment_M)
  groups = cut(group_sizes_E, block_sizes(slots, len(weights[0])))
  gate_M = rows_at(gates_TK.reshape(-1), assignment_M).astype(jnp.float32)

  def body(grads, e, first_row, rows):
    start, own = own_rows(groups, e, first_row, rows, slots)
    token_R = _tokens_of_block(assignment_M, gates_TK.shape[1], len(x_TD), start, own)
    x, dy = rows_at(x_TD, token_R), rows_at(dout_TD, token_R)
    a, b, gate = (lax.dynamic_slice_in_dim(z, start, rows) for z in (a_MF, b_MF, gate_M))
    new = _block_gradients(x, dy, a, b, gate[:, None], *(_expert(w, e) for w in weights))
    sums = {
      name: lax.dynamic_update_index_in_dim(grads[name], _expert(grads[name], e) + new[name], e, 0)
      for name in ("w_gate", "w_up", "w_down")
    }
    return sums | {name: _store(grads[name], new[name], start, own) for name in ("x", "gate")}

  grads = {
    "x": jnp.zeros((slots, x_TD.shape[1]), x_TD.dtype),
    "gate": jnp.zeros(slots, jnp.float32),
  }
  for name, w in zip(("w_gate", "w_up", "w_down"), weights):
    grads[name] = jnp.zeros(w.shape, jnp.float32)
  grads = for_each_block(groups, body, grads)
  dweights = tuple(grads[n].astype(w.dtype) for n, w in zip(("w_gate", "w_up", "w_down"), weights))
  dgates_TK = rows_at(grads["gate"], slot_TK).astype(gates_TK.dtype)
  return _sum_choices(grads["x"], slot_TK), dgates_TK, dweights, None, None, None


blocked_mlp.defvjp(_forward, _backward)
