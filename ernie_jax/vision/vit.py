"""A vision transformer: pictures to patch tokens, a pooled vector and, if asked, a head's output.

One module covers ViT (Dosovitskiy et al. 2021) and CLIP's vision tower (Radford et al. 2021), whose
weights `ernie_jax.convert` reads. Pictures come in [-1, 1]; the config says what mean and spread the
weights expect. Blocks are equal and scanned, so every block parameter has a leading layer axis.

Letters: S leading axes (pictures, frames), h w grid of patches, P patch side, L tokens (class token
first, then patches row by row), D width.
"""

import dataclasses
from typing import Literal

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ernie_jax.backbone.block import REMAT_POLICIES
from ernie_jax.vision import positions as positions_lib
from ernie_jax.vision.vit_layers import ACTIVATIONS, Dense, LayerNorm, Mlp, SelfAttention


@dataclasses.dataclass(frozen=True)
class VitConfig:
  """Shape of the encoder. Defaults: an encoder of 32 px pictures at laptop size (our choice).

  Attributes:
    patch: side of a patch in pixels.
    grid: (h, w) patches at which positions were learned; other sizes interpolate them.
    depth, width, heads, mlp_width: of the blocks; heads divide width.
    activation: of the MLPs.
    qkv_bias: bias of queries, keys and values.
    patch_bias: bias of the patch embedding (CLIP has none).
    class_token: whether a learned token stands before the patches.
    positions: learned, or fixed sin-cos.
    norm_first: a layer norm before the first block (CLIP's pre_layrnorm).
    norm_last: the layer norm after the last block: over all tokens (ViT), or of the pooled vector
      alone (CLIP), which leaves the tokens as they are.
    pool: the pooled vector: none, the class token, the class token through a tanh layer (ViT's pooler),
      or the mean of the patches.
    head: outputs of a linear layer on the pooled vector; 0 for none. head_bias: whether it has a bias
      (a classifier has, CLIP's projection has not).
    norm_eps: epsilon of every layer norm.
    pixel_mean, pixel_std: per channel, for pixels in [0, 1]: what the weights were trained with.
    remat: what the backward pass recomputes, see `ModelConfig`.
    dtype: compute type of matrix products; norms and softmax are float32.
  """

  patch: int = 4
  grid: tuple[int, ...] = (8, 8)
  depth: int = 4
  width: int = 128
  heads: int = 4
  mlp_width: int = 512
  activation: Literal["gelu", "gelu_tanh", "quick_gelu"] = "gelu"
  qkv_bias: bool = True
  patch_bias: bool = True
  class_token: bool = False
  positions: Literal["learned", "sincos"] = "learned"
  norm_first: bool = False
  norm_last: Literal["tokens", "pooled"] = "tokens"
  pool: Literal["none", "class", "tanh", "mean"] = "none"
  head: int = 0
  head_bias: bool = True
  norm_eps: float = 1e-6
  pixel_mean: tuple[float, ...] = (0.5, 0.5, 0.5)
  pixel_std: tuple[float, ...] = (0.5, 0.5, 0.5)
  remat: Literal["none", "full", "dots"] = "none"
  dtype: Literal["float32", "bfloat16"] = "float32"

  def __post_init__(self):
    for name in ("patch", "depth", "width", "heads", "mlp_width"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
    if len(self.grid) != 2 or min(self.grid) < 1:
      raise ValueError(f"grid must be two positive numbers, got {self.grid}")
    if self.width % self.heads:
      raise ValueError(f"heads ({self.heads}) must divide width ({self.width})")
    if self.activation not in ACTIVATIONS:
      raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}")
    if self.pool in ("class", "tanh") and not self.class_token:
      raise ValueError(f"pool {self.pool!r} needs class_token")
    if self.head and self.pool == "none":
      raise ValueError("head needs a pool")
    if self.norm_last == "pooled" and self.pool not in ("class", "mean"):
      raise ValueError(f"norm_last 'pooled' needs pool 'class' or 'mean', got {self.pool!r}")
    if len(self.pixel_mean) != 3 or len(self.pixel_std) != 3 or min(self.pixel_std) <= 0:
      raise ValueError("pixel_mean and pixel_std must be three numbers, the latter positive")

  def patches(self, height: int, width: int) -> tuple[int, int]:
    """(h, w) patches of a picture. Raises: ValueError when the patch side does not divide it."""
    if height % self.patch or width % self.patch:
      raise ValueError(f"a {height} x {width} picture does not divide into patches of {self.patch}")
    return height // self.patch, width // self.patch


@flax.struct.dataclass
class VitOutput:
  """What the encoder gives.

  Attributes:
    tokens: [*S, L, D], all tokens after the last block (and its norm, see `norm_last`).
    patches: [*S, h, w, D], the same without the class token, as a grid.
    pooled: [*S, D], or None.
    head: [*S, head], or None.
  """

  tokens: Float[Array, "*S L D"]
  patches: Float[Array, "*S h w D"]
  pooled: Float[Array, "*S D"] | None
  head: Float[Array, "*S E"] | None


class Block(nn.Module):
  """Pre-norm attention and MLP, both residual.

  `attend` and `feed` take what the norm gives and return what the residual adds, so a subclass wraps
  either with an adapter in series or in parallel.
  """

  config: VitConfig

  @nn.compact
  def __call__(self, x: Float[Array, "S L D"]) -> Float[Array, "S L D"]:
    norm = lambda name: LayerNorm(self.config.norm_eps, name=name)
    x = x + self.attend(norm("attention_norm")(x))
    return x + self.feed(norm("mlp_norm")(x))

  def attend(self, normed: Float[Array, "S L D"]) -> Float[Array, "S L D"]:
    """The attention's contribution."""
    c = self.config
    scale = 1 / (2 * c.depth)
    return SelfAttention(c.heads, scale, c.qkv_bias, c.dtype, name="attention")(normed)

  def feed(self, normed: Float[Array, "S L D"]) -> Float[Array, "S L D"]:
    """The MLP's contribution."""
    c = self.config
    scale = 1 / (2 * c.depth)
    return Mlp(c.mlp_width, None, c.activation, scale, c.dtype, name="mlp")(normed)


def run_blocks(config: VitConfig, x: Float[Array, "S L D"]) -> Float[Array, "S L D"]:
  """All blocks, scanned, as the module `blocks` of the module that calls this."""
  block = Block
  if config.remat != "none":
    block = nn.remat(Block, policy=REMAT_POLICIES[config.remat], prevent_cse=False)
  scan = nn.scan(
    lambda block, x, _: (block(x), None),
    variable_axes={"params": 0},
    split_rngs={"params": True},
    length=config.depth,
    metadata_params={nn.PARTITION_NAME: "layers"},
  )
  return scan(block(config, name="blocks"), x, None)[0]


class VisionTransformer(nn.Module):
  """Pictures of any leading axes and any size that the patch side divides, each on its own."""

  config: VitConfig

  @nn.compact
  def __call__(self, pixels: Float[Array, "*S height width 3"]) -> VitOutput:
    """Encodes pictures in [-1, 1].

    Raises:
      ValueError: a size that does not divide into patches.
    """
    c = self.config
    lead, grid = pixels.shape[:-3], c.patches(*pixels.shape[-3:-1])
    x = self._embed(pixels.reshape(-1, *pixels.shape[-3:]), grid)
    if c.norm_first:
      x = LayerNorm(c.norm_eps, name="first_norm")(x)
    x = run_blocks(c, x)
    if c.norm_last == "tokens":
      x = LayerNorm(c.norm_eps, name="last_norm")(x)
    pooled = self._pool(x)
    head = None
    if c.head:
      head = Dense((c.head,), ("embed", None), use_bias=c.head_bias, dtype=c.dtype, name="head")(
        pooled
      )
    unflatten = lambda a: None if a is None else a.reshape(*lead, *a.shape[1:])
    patches = x[:, int(c.class_token) :].reshape(-1, *grid, c.width)
    return VitOutput(*map(unflatten, (x, patches, pooled, head)))

  def _embed(self, pixels: Float[Array, "S height width 3"], grid) -> Float[Array, "S L D"]:
    """Patches, class token and positions."""
    c, p = self.config, self.config.patch
    mean, std = np.array(c.pixel_mean, np.float32), np.array(c.pixel_std, np.float32)
    pixels = (pixels * 0.5 + (0.5 - mean)) / std
    x = pixels.reshape(-1, grid[0], p, grid[1], p, 3).transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(len(x), grid[0] * grid[1], p, p, 3)
    names = (None, None, None, "embed")
    x = Dense(
      (c.width,), names, in_axes=3, use_bias=c.patch_bias, dtype=c.dtype, name="patch_embed"
    )(x)
    first = int(c.class_token)
    if c.positions == "sincos":
      where = jnp.asarray(positions_lib.sincos(tuple(c.grid), grid, c.width))
    else:
      init = nn.with_logical_partitioning(nn.initializers.normal(0.02), (None, "embed"))
      shape = (first + c.grid[0] * c.grid[1], c.width)
      table = self.param("positions", init, shape, jnp.float32)
      where = positions_lib.resize(table[first:], tuple(c.grid), grid)
    x = x + where.astype(x.dtype)
    if not c.class_token:
      return x
    init = nn.with_logical_partitioning(nn.initializers.normal(0.02), ("norm",))
    token = self.param("class_token", init, (c.width,), jnp.float32)
    if c.positions == "learned":
      token = token + table[0]
    token = jnp.broadcast_to(token.astype(x.dtype), (len(x), 1, c.width))
    return jnp.concatenate([token, x], axis=1)

  def _pool(self, x: Float[Array, "S L D"]) -> Float[Array, "S D"] | None:
    c = self.config
    if c.pool == "none":
      return None
    pooled = jnp.mean(x[:, int(c.class_token) :], axis=1) if c.pool == "mean" else x[:, 0]
    if c.norm_last == "pooled":
      pooled = LayerNorm(c.norm_eps, name="last_norm")(pooled)
    if c.pool == "tanh":
      dense = Dense((c.width,), ("embed", "mlp"), dtype=c.dtype, name="pooler")
      pooled = jnp.tanh(dense(pooled))
    return pooled
