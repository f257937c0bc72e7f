"""The mixture-of-experts MLP: router, routed experts, and one always-on shared expert.

Letters: B rows, L positions, D width, E experts, F expert width.
Dispatch, grouped matmul and the expert-parallel transport live in their own files; this one joins them.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ernie_jax.backbone.config import ModelConfig
from ernie_jax.backbone.dispatch import expert_mlp
from ernie_jax.backbone.inputs import Context, LayerStats
from ernie_jax.backbone.linear import SwiGLU, fan_in_init
from ernie_jax.backbone.router import Router, Routes
from ernie_jax.sharding.transports import Delivered, deliver


class Experts(nn.Module):
  """E SwiGLU experts stored as stacked kernels gate, up [E, D, F] and down [E, F, D]."""

  config: ModelConfig

  @nn.compact
  def __call__(self, x: Float[Array, "B L D"], routes: Routes) -> Delivered:
    c = self.config
    names_in, names_out = ("experts", "embed", "expert_mlp"), ("experts", "expert_mlp", "embed")
    inward = lambda name: self.param(
      name, fan_in_init((1,), names_in), (c.experts, c.width, c.expert_width), jnp.float32
    )
    weights = {
      "gate": inward("gate"),
      "up": inward("up"),
      "down": self.param(
        "down",
        fan_in_init((1,), names_out, scale=1 / (2 * c.depth)),
        (c.experts, c.expert_width, c.width),
        jnp.float32,
      ),
    }
    dtype = jnp.dtype(c.dtype)
    weights = {name: w.astype(dtype) for name, w in weights.items()}
    local = functools.partial(_local_experts, backend=c.grouped_matmul)
    return deliver(
      x.astype(dtype), routes.experts, routes.gates, routes.live, weights, local_fn=local
    )


def _local_experts(x_TD, experts_TK, gates_TK, live_TK, weights, *, backend):
  """All tokens through the experts held here, on one device."""
  w = weights
  return expert_mlp(
    x_TD, experts_TK, gates_TK, live_TK, w["gate"], w["up"], w["down"], backend=backend
  )


class MixtureOfExperts(nn.Module):
  """Routed experts plus the shared expert."""

  config: ModelConfig

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "B L D"],
    bias: Float[Array, "E"],
    allowed: Bool[Array, "B E"],
    live: Bool[Array, "B L"],
    context: Context,
  ) -> tuple[Float[Array, "B L D"], LayerStats]:
    c = self.config
    routes, stats = Router(c, name="router")(x, bias, allowed, live, context)
    found = Experts(c, name="experts")(x, routes)
    out = found.out.astype(x.dtype)
    if c.shared_width:
      shared = SwiGLU(c.shared_width, out_scale=1 / (2 * c.depth), dtype=c.dtype, name="shared")
      out = out + shared(x)
    return out, stats.replace(overflowed=found.overflowed)
