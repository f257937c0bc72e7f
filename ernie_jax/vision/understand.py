"""The understanding path: pictures and videos to context tokens (ERNIE 5.0, section on the patch merger).

    encoder = Understanding(config, width=model.width)
    tokens = encoder.apply(variables, pixels, features)      # [B, V, N, W], see below

and `backbone/vision_io.py` puts the tokens at the context positions of a row.

Two encoders see the same pixels, both before any quantiser, whose bottleneck loses detail: the visual
tokenizer's convolutions (`features`, given) and a ViT (here). The quantities are

    pixels    [*S, F, height, width, 3] in [-1, 1], F = 1 + group_frames * (T - 1) frames
    features  [*S, T, h, w, C], one latent frame for the first frame and one for each group_frames more
    tokens    [*S, T * gh * gw, W], gh = h / group_side, gw = w / group_side

**One token** is a group of K patches: group_side x group_side places, in one frame for latent frame 0
(K = 4) and in group_frames frames for each later one (K = 16). An image is a video of one frame: the same
code, with no later frames. The first latent frame's tokens depend on the first frame alone, so an image in
a slot padded to F frames has the tokens it would have in a slot of its own, and a video's tokens do not
depend on frames after their own group.

**How a row's elements map to tokens**: `ContextMedia(slot, frames=T, grid=(gh, gw))` numbers its positions
`media_element` e = (t * gh + i) * gw + j, frame by frame and row by row, which is the order of `tokens`.
So element e of slot v in row b is tokens[b, v, e]. `config.merged(...)` gives T and (gh, gw) of a media
slot's pixels; a slot that holds an image uses elements 0 .. gh * gw - 1 alone.

A feature of the convolutions stands for group_frames frames, so it is paired with the ViT's patch at its
place in each of them: both paths have K members of a group, as in the report's N x 2K x D.

Letters: S leading axes (B rows, V slots), F pixel frames, T latent frames, h w patches (of the ViT and of
the latent alike), C latent channels, G groups, K patches of a group, D the ViT's width, W model width.
"""

import dataclasses
import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ernie_jax.vision.vit import VisionTransformer, VitConfig
from ernie_jax.vision.vit_layers import Dense, LayerNorm, Mlp, SelfAttention

_OUT_STD = 0.02  # of the tokens at the start, as the text embedding's
_POSITION_STD = 0.3  # of a place in its group, added to features of mean square 1


@dataclasses.dataclass(frozen=True)
class MergedShape:
  """What a media slot becomes: `frames` T and `grid` (gh, gw), the arguments of `ContextMedia`."""

  frames: int
  grid: tuple[int, int]

  @property
  def length(self) -> int:
    """Tokens of the slot."""
    return self.frames * self.grid[0] * self.grid[1]


@dataclasses.dataclass(frozen=True)
class UnderstandConfig:
  """How pictures become context tokens.

  Attributes:
    vit: the ViT; its patch side is the tokenizer's spatial stride, so that both have the same grid.
    variant: "merger", the report's: self-attention among the 2K members of a group. For ablation: "mlp"
      joins the two features of each patch and fuses them with an MLP; "cnn" and "vit" give the merger one
      path alone. `comparable` sets `hidden` so that a variant has the parameters of another.
    heads: of the attention inside a group; they divide the ViT's width.
    hidden: width of the fusing MLP of "mlp"; of a residual MLP after the attention of the others, which
      the report does not have (0: none).
    group_side: a group is this many patches high and wide.
    group_frames: frames of a group after the first frame: the tokenizer's temporal stride.

  Raises:
    ValueError: a size below 1, heads that do not divide, no `hidden` for "mlp".
  """

  vit: VitConfig = VitConfig()
  variant: Literal["merger", "mlp", "cnn", "vit"] = "merger"
  heads: int = 4
  hidden: int = 0
  group_side: int = 2
  group_frames: int = 4

  def __post_init__(self):
    for name in ("heads", "group_side", "group_frames"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
    if self.vit.width % self.heads:
      raise ValueError(f"heads ({self.heads}) must divide vit.width ({self.vit.width})")
    if self.hidden < (1 if self.variant == "mlp" else 0):
      raise ValueError(f"hidden is too small for variant {self.variant!r}, got {self.hidden}")

  def merged(self, frames: int, height: int, width: int) -> MergedShape:
    """The shape of the tokens of `frames` frames of `height` x `width` pixels.

    Raises:
      ValueError: a number of frames or a size that does not divide into groups.
    """
    if frames < 1 or (frames - 1) % self.group_frames:
      raise ValueError(f"frames must be 1 + a multiple of {self.group_frames}, got {frames}")
    grid = self.vit.patches(height, width)
    if any(side % self.group_side for side in grid):
      raise ValueError(f"{grid} patches do not divide into groups of side {self.group_side}")
    h, w = (side // self.group_side for side in grid)
    return MergedShape(frames=1 + (frames - 1) // self.group_frames, grid=(h, w))


class Understanding(nn.Module):
  """ViT, grouping and merger.

  Attributes:
    config: see `UnderstandConfig`.
    width: W, the model's.
  """

  config: UnderstandConfig
  width: int

  @nn.compact
  def __call__(
    self, pixels: Float[Array, "*S F height width 3"], features: Float[Array, "*S T h w C"]
  ) -> Float[Array, "*S N W"]:
    """The tokens of media slots, as the module's docstring says; compute type is the ViT's.

    A variant of one path takes both arguments and ignores one, which then costs nothing under jit.

    Raises:
      ValueError: sizes that do not divide into groups, or features of another grid than the ViT's.
    """
    c = self.config
    shape = c.merged(*pixels.shape[-4:-1])
    wanted = (shape.frames, *c.vit.patches(*pixels.shape[-3:-1]))
    if features.shape[-4:-1] != wanted:
      raise ValueError(f"features must be [.., {wanted}, C], got shape {features.shape}")
    lead, paths = pixels.shape[:-4], []
    if c.variant != "vit":
      cnn = Dense((c.vit.width,), (None, "embed"), dtype=c.vit.dtype, name="cnn_project")(features)
      cnn = LayerNorm(c.vit.norm_eps, name="cnn_norm")(cnn)
      paths.append(_grouped(cnn.reshape(-1, *cnn.shape[-4:]), c, lasts=c.group_frames))
    if c.variant != "cnn":
      vit = VisionTransformer(c.vit, name="vit")(pixels).patches
      vit = LayerNorm(c.vit.norm_eps, name="vit_norm")(vit)
      paths.append(_grouped(vit.reshape(-1, *vit.shape[-4:]), c, lasts=1))
    merge = Merger(c, self.width, name="merger")
    # Groups of the first frame and of later frames differ in K alone, so one merger serves both.
    tokens = jnp.concatenate([merge(*groups) for groups in zip(*paths)], axis=1)
    return tokens.reshape(*lead, shape.length, self.width)


class Merger(nn.Module):
  """Groups of patch features, of one path or of two, to one token each.

  The report names no positions here. A learned one for each place and frame of a group is our choice: a
  convolution of one patch says nothing of its place, and a token that forgets where in its group a patch
  lay has to find shapes without it.
  """

  config: UnderstandConfig
  width: int

  @nn.compact
  def __call__(self, *paths: Float[Array, "S T G K D"]) -> Float[Array, "S T G W"]:
    c, dtype = self.config, self.config.vit.dtype
    lead, (k, d) = paths[0].shape[:3], paths[0].shape[3:]
    position = self._positions(d)[-k:].astype(dtype)  # a first frame is the last of its group
    paths = [path.reshape(-1, k, d) + position for path in paths]
    if c.variant == "mlp":
      joined = jnp.concatenate(paths, axis=-1)
      x = Mlp(c.hidden, features=d, dtype=dtype, name="mlp")(joined)
    else:
      x = jnp.concatenate(paths, axis=-2)
      x = x + SelfAttention(c.heads, dtype=dtype, name="attention")(x)
      if c.hidden:
        normed = LayerNorm(c.vit.norm_eps, name="mlp_norm")(x)
        x = x + Mlp(c.hidden, dtype=dtype, name="mlp")(normed)
    x = jnp.mean(x, axis=-2).reshape(*lead, d)
    # Axis names of an inner width: two axes of the same name could not both be divided.
    project = Dense((self.width,), ("mlp", "embed"), scale=_OUT_STD**2, dtype=dtype, name="project")
    return project(x)

  def _positions(self, width: int) -> Float[Array, "K D"]:
    """Of the members of a later group, frame by frame."""
    c = self.config
    shape = (c.group_frames * c.group_side**2, width)
    init = nn.with_logical_partitioning(nn.initializers.normal(_POSITION_STD), (None, "embed"))
    return self.param("positions", init, shape)


def comparable(
  config: UnderstandConfig, variant: str, *, channels: int, width: int
) -> UnderstandConfig:
  """`config` as another variant, with as many parameters in all as nearly as `hidden` can make it.

  Args:
    config: the variant to compare with.
    variant: which to make. "cnn" lacks the ViT and spends its parameters on the features of each patch.
    channels: C; width: W.
  """

  def count(hidden: int) -> int:
    changed = dataclasses.replace(config, variant=variant, hidden=hidden)
    return parameter_count(changed, channels=channels, width=width)

  smallest = 1 if variant == "mlp" else 0
  slope = count(2) - count(1)
  wanted = parameter_count(config, channels=channels, width=width)
  hidden = round((wanted - count(1)) / slope) + 1
  return dataclasses.replace(config, variant=variant, hidden=max(hidden, smallest))


def parameter_count(config: UnderstandConfig, *, channels: int, width: int) -> int:
  """Parameters of the whole path, the ViT included; computes nothing but shapes."""
  side = config.vit.patch * config.group_side
  pixels = jnp.zeros((1, side, side, 3))
  features = jnp.zeros((1, config.group_side, config.group_side, channels))
  init = lambda: Understanding(config, width).init(jax.random.key(0), pixels, features)
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(jax.eval_shape(init)))


def _grouped(
  x: Float[Array, "S F h w D"], config: UnderstandConfig, *, lasts: int
) -> tuple[Float[Array, "S one G k D"], Float[Array, "S later G K D"]]:
  """Groups of the first frame and those of later frames, of which an image has none.

  Args:
    lasts: how many frames of pixels a later frame of `x` stands for; it is repeated for each.
  """
  frames = config.group_frames // lasts  # frames of x in a later group
  later = x[:, 1:].reshape(len(x), -1, frames, 1, *x.shape[2:])
  later = jnp.broadcast_to(later, (*later.shape[:3], lasts, *x.shape[2:]))
  later = later.reshape(len(x), -1, config.group_frames, *x.shape[2:])
  side = config.group_side

  def cut(x: Float[Array, "S T f h w D"]) -> Float[Array, "S T G K D"]:
    s, t, f, h, w, d = x.shape
    x = x.reshape(s, t, f, h // side, side, w // side, side, d)
    x = x.transpose(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(s, t, (h // side) * (w // side), f * side * side, d)

  return cut(x[:, :1, None]), cut(later)
