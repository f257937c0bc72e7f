"""Interval attention tile by tile: memory for one tile of scores, and no work for tiles nobody sees.

For each block of queries one loop with traced bounds walks over the key blocks between the first and the
last that any of its queries sees, keeping a running softmax (FlashAttention, Dao et al. 2022; the bounds are
FlashMask's idea, Wang et al. 2024). The backward pass recomputes each tile from the saved normaliser. So a
causal row costs about half of all tiles, and neither pass stores scores. What is stored for every pair of
positions is the rule itself, one bool.

Letters: B rows, Q queries, S keys, G key-value heads, R query heads of one key-value head, C head size,
M = R * block queries of one tile, N = block keys of one tile.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ernie_jax.kernels.platform import platform

NEGATIVE = -1e30  # finite, so that a fully hidden row stays free of NaN
# Rows and columns of a tile. Rows hold short examples: on CPU tiles of 64 look at a third fewer pairs than those of 128
# and take a tenth less time; a TPU multiplies 128 x 128 at once.
_BLOCK_OF_PLATFORM = {"cpu": 64}
_BLOCK = 128


def blocked_attention(
  q: Float[Array, "B Q H C"],
  k: Float[Array, "B S G C"],
  v: Float[Array, "B S G C"],
  queries,
  keys,
  *,
  visible,
  block: int,
) -> Float[Array, "B Q H C"]:
  """As `interval_attention.attend`; `visible(queries, keys)` is the rule as a dense mask of a tile."""
  b, n_q, h, c = q.shape
  g = k.shape[2]
  # Batch axes first, so that no product needs a transposed copy of its operands.
  q_blocks = _split(q.reshape(b, n_q, g, h // g, c) * c**-0.5, block)  # [nq, B, block, G, R, C]
  q_tiles = q_blocks.transpose(0, 1, 3, 4, 2, 5).reshape(-1, b, g, h // g * block, c)
  k_tiles = _split(k, block).transpose(0, 1, 3, 2, 4)  # [nk, B, G, N, C]
  v_tiles = _split(v, block).transpose(0, 1, 3, 2, 4)
  split = functools.partial(jax.tree.map, lambda x: _split(x, block))
  mask = _tile_mask(split(queries), split(keys), visible)
  out = _attention(q_tiles, k_tiles, v_tiles, mask, h // g)
  out = out.reshape(-1, b, g, h // g, block, c).transpose(1, 0, 4, 2, 3, 5)
  return out.reshape(b, -1, h, c)[:, :n_q].astype(q.dtype)


def _split(x, block: int):
  """[B, L, ...] to [blocks, B, block, ...]; filling is zeros: example 0, which sees nothing."""
  b, length = x.shape[:2]
  count = -(-length // block)
  x = jnp.pad(x, [(0, 0), (0, count * block - length)] + [(0, 0)] * (x.ndim - 2))
  return jnp.moveaxis(x.reshape(b, count, block, *x.shape[2:]), 1, 0)


def _tile_mask(queries, keys, visible):
  """bool [nq, nk, B, block, block]: the rule of every tile."""
  by_key = jax.vmap(visible, in_axes=(None, 0))
  return jax.vmap(by_key, in_axes=(0, None))(queries, keys)


def _bounds(mask):
  """int32 [nq] twice: the first tile that any query of a block sees, and one past the last."""
  seen = jnp.any(mask, axis=(2, 3, 4))
  index = jnp.arange(seen.shape[1])
  first = jnp.min(jnp.where(seen, index, seen.shape[1]), axis=1)
  stop = jnp.max(jnp.where(seen, index + 1, 0), axis=1)
  return jnp.minimum(first, stop), stop


def _scores(q_MC, k_NC, mask, heads: int):
  """Scores of a tile [B, G, M, N] in float32, hidden ones at NEGATIVE."""
  scores = jnp.einsum("bgmc,bgnc->bgmn", q_MC, k_NC, preferred_element_type=jnp.float32)
  return jnp.where(_for_heads(mask, heads), scores, NEGATIVE)


def _for_heads(mask, heads: int):
  """bool [B, block, N] as [B, 1, M, N]."""
  return jnp.tile(mask, (1, heads, 1))[:, None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attention(q_tiles, k_tiles, v_tiles, mask, heads: int):
  return _forward(q_tiles, k_tiles, v_tiles, mask, heads)[0]


def _forward(q_tiles, k_tiles, v_tiles, mask, heads: int):
  """Output [nq, B, G, M, C] in float32, and what the backward pass needs."""
  first, stop = _bounds(mask)

  def one_block(_, i):
    q = q_tiles[i]

    def tile(j, carry):
      out, total, top = carry
      scores = _scores(q, k_tiles[j], mask[i, j], heads)
      new_top = jnp.maximum(top, scores.max(-1, keepdims=True))
      shrink = jnp.exp(top - new_top)
      weights = jnp.exp(scores - new_top)
      update = jnp.einsum(
        "bgmn,bgnc->bgmc", weights.astype(v_tiles.dtype), v_tiles[j],
        preferred_element_type=jnp.float32,
      )  # fmt: skip
      return out * shrink + update, total * shrink + weights.sum(-1, keepdims=True), new_top

    rows = q.shape[:-1]
    start = (
      jnp.zeros(q.shape, jnp.float32),
      jnp.zeros((*rows, 1), jnp.float32),
      jnp.full((*rows, 1), NEGATIVE, jnp.float32),
    )
    out, total, top = lax.fori_loop(first[i], stop[i], tile, start)
    # While every score so far is hidden, weights are exp(0); such rows are told by their maximum.
    some = top > NEGATIVE / 2
    out = jnp.where(some, out / jnp.where(some, total, 1.0), 0.0)
    normaliser = jnp.where(some, top + jnp.log(jnp.where(some, total, 1.0)), -NEGATIVE)
    return None, (out, normaliser)

  _, (out, normaliser) = lax.scan(one_block, None, jnp.arange(q_tiles.shape[0]))
  return out, (q_tiles, k_tiles, v_tiles, mask, out, normaliser)


def _backward(heads: int, saved, d_out):
  q_tiles, k_tiles, v_tiles, mask, out, normaliser = saved
  first, stop = _bounds(mask)
  dtype = q_tiles.dtype
  correction = jnp.sum(d_out * out, axis=-1, keepdims=True)
  # Gradients of keys and values sum over queries. With queries last in one factor, and keys last in the sums, no
  # product has to transpose its tile of scores, which on CPU took half of the time of this loop.
  q_columns, d_out_columns = q_tiles.swapaxes(-1, -2), d_out.astype(dtype).swapaxes(-1, -2)

  def one_block(carry, i):
    q, d_o, norm, fix = q_tiles[i], d_out[i].astype(dtype), normaliser[i], correction[i]
    q_CM, d_o_CM = q_columns[i], d_out_columns[i]

    def tile(j, carry):
      d_q, d_k, d_v = carry
      k, v = k_tiles[j], v_tiles[j]
      # Hidden scores and rows without any key give exp of a very negative number: zero.
      weights = jnp.exp(_scores(q, k, mask[i, j], heads) - norm)
      d_weights = jnp.einsum("bgmc,bgnc->bgmn", d_o, v, preferred_element_type=jnp.float32)
      d_scores = (weights * (d_weights - fix)).astype(dtype)
      weights = weights.astype(dtype)
      product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
      d_q += product("bgmn,bgnc->bgmc", d_scores, k)
      d_k = _add_tile(d_k, product("bgcm,bgmn->bgcn", q_CM, d_scores), j)
      d_v = _add_tile(d_v, product("bgcm,bgmn->bgcn", d_o_CM, weights), j)
      return d_q, d_k, d_v

    start = (jnp.zeros(q.shape, jnp.float32), *carry)
    d_q, *carry = lax.fori_loop(first[i], stop[i], tile, start)
    return tuple(carry), d_q.astype(dtype)

  zeros = lambda x: jnp.zeros(x.swapaxes(-1, -2).shape, jnp.float32)
  carry = (zeros(k_tiles), zeros(v_tiles))
  (d_k, d_v), d_q = lax.scan(one_block, carry, jnp.arange(q_tiles.shape[0]))
  back = lambda x, like: x.swapaxes(-1, -2).astype(like.dtype)
  return d_q, back(d_k, k_tiles), back(d_v, v_tiles), None


def _add_tile(stored, tile, j):
  old = lax.dynamic_index_in_dim(stored, j, keepdims=False)
  return lax.dynamic_update_index_in_dim(stored, old + tile, j, 0)


_attention.defvjp(_forward, _backward)


def block_for(queries: int, keys: int) -> int:
  """The platform's block, but no larger than the row; a multiple of 16."""
  block = _BLOCK_OF_PLATFORM.get(platform(), _BLOCK)
  return min(block, 16 * math.ceil(max(queries, keys) / 16))
