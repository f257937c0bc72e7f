"""Grouped-query self-attention with Uni-RoPE, on a row or on a row's key-value cache.

Letters: B rows, L positions, D width, H query heads, G key-value heads, C head size, S cache slots.
"""

import flax.linen as nn
import flax.struct
import jax
from jaxtyping import Array, Float, Int

from ernie_jax.backbone.config import ModelConfig
from ernie_jax.backbone.inputs import Context
from ernie_jax.backbone.linear import Linear
from ernie_jax.backbone.norm import RMSNorm
from ernie_jax.backbone.rotary import rotate
from ernie_jax.kernels.interval_attention import attend


@flax.struct.dataclass
class LayerCache:
  """The cache's storage as one layer sees it: all layers' arrays and where to write.

  Attributes:
    k, v: [N, B, S, G, C]; passed from layer to layer, so that a loop updates them in place.
    layer: int32 [], this layer's number.
    start: int32 [], the slot of the block's first position.
  """

  k: Array
  v: Array
  layer: Int[Array, ""]
  start: Int[Array, ""]


class Attention(nn.Module):
  """Self-attention under the row rule; appends its keys and values when given a cache."""

  config: ModelConfig

  @nn.compact
  def __call__(
    self, x: Float[Array, "B L D"], context: Context, cache: LayerCache | None = None
  ) -> tuple[Float[Array, "B L D"], LayerCache | None]:
    c = self.config
    project = lambda name, heads, axis: Linear(
      (heads, c.head_dim), ("embed", axis, "head_dim"), dtype=c.dtype, name=name
    )(x)
    q = project("query", c.heads, "heads")
    k = project("key", c.kv_heads, "kv_heads")
    v = project("value", c.kv_heads, "kv_heads")
    if c.qk_norm:
      q = RMSNorm(c.norm_eps, name="query_norm")(q)
      k = RMSNorm(c.norm_eps, name="key_norm")(k)
    q = rotate(q, context.cos, context.sin)
    k = rotate(k, context.cos, context.sin)
    if cache is not None:
      cache = cache.replace(k=_write(cache.k, k, cache), v=_write(cache.v, v, cache))
      k, v = cache.k[cache.layer], cache.v[cache.layer]
    out = attend(q, k, v, context.queries, context.keys, backend=c.attention)
    out = Linear(
      (c.width,),
      ("heads", "head_dim", "embed"),
      in_axes=2,
      scale=1 / (2 * c.depth),
      dtype=c.dtype,
      name="out",
    )(out)
    return out, cache


def _write(stored: Array, new: Float[Array, "B L G C"], cache: LayerCache) -> Array:
  """`stored` with the block entered at this layer's next slots."""
  at = (cache.layer, 0, cache.start, 0, 0)
  return jax.lax.dynamic_update_slice(stored, new[None].astype(stored.dtype), at)
