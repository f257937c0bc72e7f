"""Attention under the row rule: a group mask plus one hidden interval of queries per key.

Visible(q, k) = example[q] == example[k] > 0, and group[k] <= group[q], and not
hidden_from[k] <= index[q] < hidden_to[k]. The rule is an interval for each key (as in FlashMask), so a
block of keys that no query of a block can see is skipped without looking at it.

Letters: B rows, Q queries, S keys, H query heads, G key-value heads, R = H / G, C head size.
Gotcha: a query that sees nothing (padding) gets zeros, never NaN. Invisible keys and values may hold any
finite number; NaN there would spread, since a weight of 0 does not stop it (the model embeds padding as
zeros, and an empty cache holds zeros).
"""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

NEGATIVE = -1e30  # finite, so that a fully hidden row stays free of NaN


@flax.struct.dataclass
class QueryRule:
  """Per query: example number (0 sees nothing), group, and its index among the row's positions."""

  example: Int[Array, "B Q"]
  group: Int[Array, "B Q"]
  index: Int[Array, "B Q"]


@flax.struct.dataclass
class KeyRule:
  """Per key: example number (0 is invisible), group, and the interval of queries it is hidden from."""

  example: Int[Array, "B S"]
  group: Int[Array, "B S"]
  hidden_from: Int[Array, "B S"]
  hidden_to: Int[Array, "B S"]


def visible(queries: QueryRule, keys: KeyRule) -> Bool[Array, "B Q S"]:
  """The rule itself, as a dense mask."""
  of_query = lambda x: x[:, :, None]
  of_key = lambda x: x[:, None, :]
  same = (of_query(queries.example) == of_key(keys.example)) & (of_key(keys.example) > 0)
  causal = of_key(keys.group) <= of_query(queries.group)
  index = of_query(queries.index)
  hidden = (of_key(keys.hidden_from) <= index) & (index < of_key(keys.hidden_to))
  return same & causal & ~hidden


def attend(
  q: Float[Array, "B Q H C"],
  k: Float[Array, "B S G C"],
  v: Float[Array, "B S G C"],
  queries: QueryRule,
  keys: KeyRule,
  *,
  backend: str = "auto",
) -> Float[Array, "B Q H C"]:
  """Softmax attention with scale C^-1/2; softmax in float32, result in q's type.

  Args:
    backend: "dense" builds all Q x S scores; "blocked" walks over blocks of keys with a running
      softmax and skips blocks that nobody sees (long rows: memory Q x block instead of Q x S);
      "auto" takes dense up to 2,048 x 2,048 scores, where it is faster on every platform we measured:
      so it does for a long cache and the few queries of a decoding step.
  """
  if backend == "auto":
    backend = "dense" if q.shape[1] * k.shape[1] <= 2048**2 else "blocked"
  if backend == "dense":
    return _dense(q, k, v, queries, keys)
  if backend == "blocked":
    return _blocked(q, k, v, queries, keys)
  raise ValueError(f"unknown attention back end {backend!r}")


def _dense(q, k, v, queries, keys):
  b, n_q, h, c = q.shape
  g = k.shape[2]
  grouped = q.reshape(b, n_q, g, h // g, c) * c**-0.5
  scores = jnp.einsum("bqgrc,bsgc->bgrqs", grouped, k, preferred_element_type=jnp.float32)
  mask = visible(queries, keys)[:, None, None]
  scores = jnp.where(mask, scores, NEGATIVE)
  weights = jax.nn.softmax(scores, axis=-1)
  some = jnp.any(mask, axis=-1, keepdims=True)
  weights = jnp.where(some, weights, 0.0).astype(v.dtype)
  out = jnp.einsum("bgrqs,bsgc->bqgrc", weights, v, preferred_element_type=jnp.float32)
  return out.reshape(b, n_q, h, c).astype(q.dtype)


def _blocked(q, k, v, queries, keys, block: int = 512):
  """Running softmax over blocks of keys; the backward pass recomputes each block's scores."""
  b, n_q, h, c = q.shape
  g, r = k.shape[2], h // k.shape[2]
  grouped = q.reshape(b, n_q, g, r, c) * c**-0.5
  blocks = jax.tree.map(lambda x: _split_keys(x, block), (k, v, keys))

  def seen(carry, k_b, v_b, mask):
    out, total, top = carry
    scores = jnp.einsum("bqgrc,bsgc->bgrqs", grouped, k_b, preferred_element_type=jnp.float32)
    scores = jnp.where(mask[:, None, None], scores, NEGATIVE)
    new_top = jax.lax.stop_gradient(jnp.maximum(top, scores.max(-1)))
    shrink = jnp.exp(top - new_top)
    weights = jnp.where(mask[:, None, None], jnp.exp(scores - new_top[..., None]), 0.0)
    update = jnp.einsum(
      "bgrqs,bsgc->bgrqc", weights.astype(v.dtype), v_b, preferred_element_type=jnp.float32
    )
    return out * shrink[..., None] + update, total * shrink + weights.sum(-1), new_top

  @jax.checkpoint
  def step(carry, one):
    k_b, v_b, keys_b = one
    mask = visible(queries, keys_b)
    skip = lambda carry, *_: carry
    return jax.lax.cond(jnp.any(mask), seen, skip, carry, k_b, v_b, mask), None

  start = (
    jnp.zeros((b, g, r, n_q, c), jnp.float32),
    jnp.zeros((b, g, r, n_q), jnp.float32),
    jnp.full((b, g, r, n_q), NEGATIVE, jnp.float32),
  )
  (out, total, _), _ = jax.lax.scan(step, start, blocks)
  out = out / jnp.where(total > 0, total, 1.0)[..., None]
  return out.transpose(0, 3, 1, 2, 4).reshape(b, n_q, h, c).astype(q.dtype)


def _split_keys(x, block: int):
  """[B, S, ...] to [blocks, B, block, ...]; the filling belongs to example 0, so it is invisible."""
  b, s = x.shape[:2]
  count = -(-s // block)
  x = jnp.pad(x, [(0, 0), (0, count * block - s)] + [(0, 0)] * (x.ndim - 2))
  return jnp.moveaxis(x.reshape(b, count, block, *x.shape[2:]), 1, 0)
