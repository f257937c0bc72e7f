"""Causal layers over time, and what they carry from one part of a clip to the next.

Letters: B rows, N positions in time, C channels.

Gotcha: state between parts is the collection "stream", which each layer writes when it is mutable; the
first part has none, which means zeros before the first position.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from ernie_jax.causal import Norm, carried, carry


class CausalConv(nn.Module):
  """A convolution over time whose last tap is the newest position.

  Attributes:
    features: output channels.
    taps: positions that it sees, `dilation` apart.
    dilation: see `taps`.
    gain: of the first kernel.
  """

  features: int
  taps: int = 1
  dilation: int = 1
  gain: float = 1.0

  @nn.compact
  def __call__(self, x: Float[Array, "B N C"]) -> Float[Array, "B N D"]:
    init = nn.initializers.variance_scaling(
      self.gain**2, "fan_in", "truncated_normal", in_axis=(0, 1)
    )
    kernel = self.param(
      "kernel",
      nn.with_logical_partitioning(init, (None,) * 3),
      (self.taps, x.shape[-1], self.features),
      jnp.float32,
    )
    zeros = nn.with_logical_partitioning(nn.initializers.zeros_init(), (None,))
    bias = self.param("bias", zeros, (self.features,), jnp.float32)
    count = x.shape[1]
    x = with_past(self, "past", x, (self.taps - 1) * self.dilation)
    seen = [x[:, i * self.dilation : i * self.dilation + count] for i in range(self.taps)]
    seen = jnp.concatenate(seen, axis=-1) if len(seen) > 1 else seen[0]
    return seen @ kernel.reshape(-1, self.features) + bias


class Block(nn.Module):
  """x + dense(silu(conv(norm(x))))."""

  width: int
  taps: int
  dilation: int = 1

  @nn.compact
  def __call__(self, x: Float[Array, "B N C"]) -> Float[Array, "B N C"]:
    y = CausalConv(self.width, self.taps, self.dilation, name="conv")(Norm(name="norm")(x))
    return x + CausalConv(x.shape[-1], name="out")(nn.silu(y))


def with_past(module: nn.Module, name: str, x: Float[Array, "B N *c"], count: int) -> Array:
  """x after the `count` positions before it: those of the part before, or zeros."""
  if not count:
    return x
  past = carried(module, name)
  if past is None:
    past = jnp.zeros((x.shape[0], count, *x.shape[2:]), x.dtype)
  x = jnp.concatenate([past, x], axis=1)
  carry(module, name, x[:, x.shape[1] - count :])
  return x
