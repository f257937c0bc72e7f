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

from ernie_jax.kernels.blocked_attention import NEGATIVE, block_for, blocked_attention

_FEW_QUERIES = 256  # below, all scores at once are as fast


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
    backend: "dense" builds all Q x S scores; "blocked" goes tile by tile with a running softmax, skips
      tiles that nobody sees and stores no scores; "auto" takes dense for short rows and
      the few queries of a decoding step, and blocked for all others.
  """
  if backend == "auto":
    backend = "blocked" if q.shape[1] >= _FEW_QUERIES else "dense"
  if backend == "dense":
    return _dense(q, k, v, queries, keys)
  if backend == "blocked":
    block = block_for(q.shape[1], k.shape[1])
    return blocked_attention(q, k, v, queries, keys, visible=visible, block=block)
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
