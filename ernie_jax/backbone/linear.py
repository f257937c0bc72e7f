"""Bias-free projections and the dense SwiGLU MLP, with named (logical) axes for sharding.

Letters: D model width, F hidden width.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ernie_jax.kernels.linear import linear


def fan_in_init(in_axes: Sequence[int], names: Sequence[str], *, scale: float = 1.0):
  """Normal initialiser of variance scale / (product of the input axes), with logical axis names."""

  def init(key, shape, dtype=jnp.float32):
    fan_in = int(np.prod([shape[a] for a in in_axes]))
    return jax.random.normal(key, shape, dtype) * np.sqrt(scale / fan_in).astype(np.float32)

  return nn.with_logical_partitioning(init, tuple(names))


class Linear(nn.Module):
  """x contracted over its last `in_axes` axes with a kernel; no bias anywhere (our choice).

  Attributes:
    features: output axes.
    names: logical names of the kernel's axes, inputs then outputs.
    in_axes: how many trailing axes of x are contracted.
    scale: variance scale of the initialiser; residual outputs use 1 / (2 depth).
    dtype: compute type.
  """

  features: tuple[int, ...]
  names: tuple[str, ...]
  in_axes: int = 1
  scale: float = 1.0
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
    contracted = x.shape[x.ndim - self.in_axes :]
    init = fan_in_init(range(self.in_axes), self.names, scale=self.scale)
    kernel = self.param("kernel", init, (*contracted, *self.features), jnp.float32)
    dtype = jnp.dtype(self.dtype)
    return linear(x.astype(dtype), kernel.astype(dtype), self.in_axes)


class SwiGLU(nn.Module):
  """down(silu(gate x) * up x), hidden width F (Shazeer 2020)."""

  hidden: int
  out_scale: float
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    hidden = lambda name: Linear((self.hidden,), ("embed", "mlp"), dtype=self.dtype, name=name)
    mixed = nn.silu(hidden("gate")(x)) * hidden("up")(x)
    down = Linear(
      (x.shape[-1],), ("mlp", "embed"), scale=self.out_scale, dtype=self.dtype, name="down"
    )
    return down(mixed)
