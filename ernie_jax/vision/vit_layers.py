"""What a vision transformer is made of: linear layers with bias, layer norm, attention, MLP.

Queries, keys and values have separate kernels, not a fused one: that is how Hugging Face stores them,
and a low-rank update of queries and values alone (LoRA) then names two arrays.

Letters: L tokens, D width, H heads, C head size, F hidden width.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ernie_jax.backbone.linear import Linear

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
  "gelu": lambda x: jax.nn.gelu(x, approximate=False),
  "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
  "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),  # CLIP (Radford et al. 2021)
}


class Dense(nn.Module):
  """`Linear` with a bias, unless `use_bias` is False.

  Attributes: see `Linear`; the bias takes the names of the kernel's output axes, "embed" excepted,
  which as a vector is replicated like the scale of a norm.
  """

  features: tuple[int, ...]
  names: tuple[str | None, ...]
  in_axes: int = 1
  scale: float = 1.0
  use_bias: bool = True
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
    linear = Linear(
      self.features, self.names, in_axes=self.in_axes, scale=self.scale, dtype=self.dtype
    )
    nn.share_scope(self, linear)  # kernel and bias lie side by side
    out = linear(x)
    if not self.use_bias:
      return out
    names = tuple("norm" if n == "embed" else n for n in self.names[self.in_axes :])
    init = nn.with_logical_partitioning(nn.initializers.zeros_init(), names)
    return out + self.param("bias", init, self.features, jnp.float32).astype(out.dtype)


class LayerNorm(nn.Module):
  """(x - mean) / std * scale + bias over the last axis, in float32; the result has x's type."""

  eps: float = 1e-6

  @nn.compact
  def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    named = lambda init: nn.with_logical_partitioning(init, ("norm",))
    scale = self.param("scale", named(nn.initializers.ones_init()), (x.shape[-1],), jnp.float32)
    bias = self.param("bias", named(nn.initializers.zeros_init()), (x.shape[-1],), jnp.float32)
    wide = x.astype(jnp.float32)
    centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + self.eps)
    return (centred * inverse * scale + bias).astype(x.dtype)


class SelfAttention(nn.Module):
  """Every token sees every token; no positions of its own.

  Attributes:
    heads: H; they divide D.
    out_scale: variance scale of the output kernel's initialiser.
    qkv_bias: whether queries, keys and values have a bias; the output always has.
    dtype: compute type; scores and softmax are float32.
  """

  heads: int
  out_scale: float = 1.0
  qkv_bias: bool = True
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Float[Array, "*S L D"]) -> Float[Array, "*S L D"]:
    width = x.shape[-1]
    project = lambda name: Dense(
      (self.heads, width // self.heads),
      ("embed", "heads", "head_dim"),
      use_bias=self.qkv_bias,
      dtype=self.dtype,
      name=name,
    )(x)
    mixed = jax.nn.dot_product_attention(project("query"), project("key"), project("value"))
    return Dense(
      (width,),
      ("heads", "head_dim", "embed"),
      in_axes=2,
      scale=self.out_scale,
      dtype=self.dtype,
      name="out",
    )(mixed)


class Mlp(nn.Module):
  """down(activation(up x)), hidden width F, output width `features` (x's own when None)."""

  hidden: int
  features: int | None = None
  activation: str = "gelu"
  out_scale: float = 1.0
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... E"]:
    out = x.shape[-1] if self.features is None else self.features
    hidden = Dense((self.hidden,), ("embed", "mlp"), dtype=self.dtype, name="up")(x)
    down = Dense((out,), ("mlp", "embed"), scale=self.out_scale, dtype=self.dtype, name="down")
    return down(ACTIVATIONS[self.activation](hidden))
