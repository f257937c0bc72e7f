"""Root-mean-square normalisation, always in float32 (Zhang and Sennrich 2019)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class RMSNorm(nn.Module):
  """x / rms(x) * scale over the last axis; the result has x's type."""

  eps: float = 1e-5

  @nn.compact
  def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    init = nn.with_logical_partitioning(nn.initializers.ones_init(), ("norm",))
    scale = self.param("scale", init, (x.shape[-1],), jnp.float32)
    wide = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.eps)
    return (wide * inverse * scale).astype(x.dtype)
