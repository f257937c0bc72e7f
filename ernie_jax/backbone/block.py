"""One layer of the backbone: pre-norm attention, then experts or a dense MLP, both residual.

Letters: B rows, L positions, D width, E experts.
"""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ernie_jax.backbone.attention import Attention, LayerCache
from ernie_jax.backbone.config import ModelConfig
from ernie_jax.backbone.experts import MixtureOfExperts
from ernie_jax.backbone.inputs import Cache, Context, LayerStats, no_stats
from ernie_jax.backbone.linear import SwiGLU
from ernie_jax.backbone.norm import RMSNorm


@flax.struct.dataclass
class LayerInputs:
  """What differs from layer to layer; the stack scans over a leading [N] of each.

  Attributes:
    number: int32 [], the layer's number.
    bias: float32 [E], the router's balancing bias.
    runs: bool [B] (by row) or [] (for the step): whether the layer runs or is passed by.
    experts: bool [B, E] or [E]: experts that may be chosen.

  `runs` and `experts` are None in a plain model, where everything always runs.
  """

  number: Int[Array, ""]
  bias: Float[Array, "E"]
  runs: Bool[Array, "*B"] | None
  experts: Bool[Array, "*B E"] | None


@flax.struct.dataclass
class Carry:
  """What flows from layer to layer: hidden state [B, L, D] and the cache, if there is one."""

  x: Float[Array, "B L D"]
  cache: Cache | None = None


class Block(nn.Module):
  """A layer that runs, or is passed by where elastic depth says so.

  By row (`runs` [B]) a skipped row's result is discarded and its tokens take no expert. For the whole
  step (`runs` []) a `lax.cond` skips the work itself.
  """

  config: ModelConfig
  moe: bool

  @nn.compact
  def __call__(
    self, carry: Carry, layer: LayerInputs, context: Context
  ) -> tuple[Carry, LayerStats]:
    by_step = layer.runs is not None and layer.runs.ndim == 0
    if by_step and not self.is_initializing():
      skip = lambda _, carry, __, ___: (carry, no_stats(self.config.experts))
      return nn.cond(layer.runs, Block._run, skip, self, carry, layer, context)
    return self._run(carry, layer, context)

  def _run(self, carry: Carry, layer: LayerInputs, context: Context) -> tuple[Carry, LayerStats]:
    c, x = self.config, carry.x
    keep, live = lambda delta: delta.astype(x.dtype), context.live
    if layer.runs is not None and layer.runs.ndim == 1:
      keep = lambda delta: jnp.where(layer.runs[:, None, None], delta, 0).astype(x.dtype)
      live = live & layer.runs[:, None]

    store, start = None, None
    if carry.cache is not None:
      cache = carry.cache
      start = cache.length - x.shape[1]  # the stack has already counted this block
      store = LayerCache(k=cache.k, v=cache.v, layer=layer.number, start=start)
    normed = RMSNorm(c.norm_eps, name="attention_norm")(x)
    delta, store = Attention(c, name="attention")(normed, context, store)
    x = x + keep(delta)

    normed = RMSNorm(c.norm_eps, name="mlp_norm")(x)
    if self.moe:
      experts = jnp.ones((), bool) if layer.experts is None else layer.experts
      allowed = jnp.broadcast_to(experts, (x.shape[0], c.experts))
      moe = MixtureOfExperts(c, name="moe")
      delta, stats = moe(normed, layer.bias, allowed, live, context)
    else:
      mlp = SwiGLU(c.dense_width, out_scale=1 / (2 * c.depth), dtype=c.dtype, name="mlp")
      delta, stats = mlp(normed), no_stats(c.experts)
    carry = Carry(x=x + keep(delta), cache=carry.cache)
    if store is not None:
      carry = carry.replace(cache=carry.cache.replace(k=store.k, v=store.v))
    return carry, stats


REMAT_POLICIES = {
  "full": None,
  "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
