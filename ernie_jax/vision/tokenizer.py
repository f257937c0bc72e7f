"""The visual tokenizer: causal convolutions around the multi-scale bit quantizer (ERNIE 5.0, section 3.1).

Letters: B rows, T frames of pixels, n latent frames, H W pixels, h w latent side, C channels, d bits.

Choices:
* An image is a video of one frame. 1 + 4m frames give 1 + m latent frames: the first stands alone.
* Trained on images with kernels of one temporal slice, then inflated (`grow.py`).
* Space-to-depth stem and pixel-shuffle head, also over time: all inner layers run at the latent's rate,
  which a CPU can afford. RMS norm over channels only, so nothing is normalised over time, and chunks of
  a video give exactly what the whole gives.
* The latent is RMS-normalised without a learned scale, straight after a linear layer; magnitudes of the
  scales are learned instead.

Gotcha: state between chunks is the collection "stream", which each causal layer writes when it is
mutable; the first chunk has none. Use `encode_chunk` and `decode_chunk`.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ernie_jax.causal import Chunk, Norm, carried, carry, rms_normalised, run_chunk
from ernie_jax.vision.quantizer import Quantized, QuantizerConfig, quantize


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
  """The shape of the tokenizer.

  Attributes:
    quantizer: scales and bits; its last side times `spatial` is the side of the pictures.
    patch: pixels of a side that the stem folds into channels.
    widths: channels of each level; every level after the first halves the side again.
    blocks: residual blocks of a level, in the encoder and in the decoder.
    temporal: frames that a latent frame stands for; 1 is the image tokenizer.
    temporal_kernel: latent frames that the first convolution of a decoder's block sees, where temporal > 1.
    encoder_side: of the encoder's spatial kernels. 1: bits tell of their own patch alone, which a model
      learns to predict sooner; 3: of the surroundings too, and textured pictures come back sharper.
    encoder_time: as `temporal_kernel`, of the encoder's blocks. 1: bits tell of their own frames alone, so that what
      moves on by a patch keeps its bits; 3: of those before too.
  """

  quantizer: QuantizerConfig = QuantizerConfig()
  patch: int = 4
  widths: tuple[int, ...] = (64,)
  blocks: int = 2
  temporal: int = 1
  temporal_kernel: int = 3
  encoder_side: int = 3
  encoder_time: int = 3

  def __post_init__(self):
    for name in ("patch", "blocks", "temporal", "temporal_kernel", "encoder_time"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
    if self.encoder_side < 1 or self.encoder_side % 2 == 0:
      raise ValueError(f"encoder_side must be odd and positive, got {self.encoder_side}")
    if not self.widths or min(self.widths) < 1:
      raise ValueError(f"widths must be positive, at least one, got {list(self.widths)}")

  @property
  def spatial(self) -> int:
    """Pixels of a side that a latent's side stands for."""
    return self.patch * 2 ** (len(self.widths) - 1)

  @property
  def side(self) -> int:
    """Side of the pictures."""
    return self.quantizer.side * self.spatial

  def latent_frames(self, frames: int) -> int:
    """Latent frames of a video.

    Raises:
      ValueError: not 1 + temporal * m frames.
    """
    if frames < 1 or (frames - 1) % self.temporal:
      raise ValueError(f"frames must be 1 + {self.temporal}m, got {frames}")
    return 1 + (frames - 1) // self.temporal

  def pixel_frames(self, latent_frames: int) -> int:
    """Frames of pixels that so many latent frames decode to."""
    return 1 + self.temporal * (latent_frames - 1)


@flax.struct.dataclass
class Reconstruction:
  """What goes out of a tokenizer, and what it went through.

  Attributes:
    video: float32 [B, T, H, W, 3], about -1 to 1, not clipped.
    latent: float32 [B, n, h, w, d], before quantisation.
    features: float32 [B, n, h, w, C], the encoder's, before the projection to d channels.
    quantized: bits and their sum.
  """

  video: Float[Array, "B T H W 3"]
  latent: Float[Array, "B n h w d"]
  features: Float[Array, "B n h w C"]
  quantized: Quantized


class VisualTokenizer(nn.Module):
  """Encoder, quantizer and decoder; all in float32."""

  config: TokenizerConfig

  def setup(self):
    self.encoder = Encoder(self.config)
    self.project = CausalConv(self.config.quantizer.bits, side=1)
    self.decoder = Decoder(self.config)
    self.magnitude = Magnitudes(len(self.config.quantizer.sides))

  def __call__(
    self, video: Float[Array, "B T H W 3"], keep: Bool[Array, "B K"] | None = None
  ) -> Reconstruction:
    """Encodes, quantises with the scales of `keep` (None: all), and decodes."""
    features = self.features(video)
    latent = self.latent(features)
    quantized = quantize(latent, self.magnitudes(), self.config.quantizer, keep=keep)
    return Reconstruction(
      video=self.decode(quantized.total), latent=latent, features=features, quantized=quantized
    )

  def encode(self, video: Float[Array, "B T H W 3"]) -> Float[Array, "B n h w d"]:
    """Pixels in [-1, 1] to the latent that the quantizer takes.

    Raises:
      ValueError: pictures of another side, or not 1 + temporal * m frames.
    """
    return self.latent(self.features(video))

  def features(self, video: Float[Array, "B T H W 3"]) -> Float[Array, "B n h w C"]:
    """The encoder's output before the bottleneck: what the understanding path reads."""
    side = self.config.side
    if video.ndim != 5 or video.shape[2:] != (side, side, 3):
      raise ValueError(f"pictures must be [B, T, {side}, {side}, 3], got {video.shape}")
    return self.encoder(video.astype(jnp.float32))

  def latent(self, features: Float[Array, "B n h w C"]) -> Float[Array, "B n h w d"]:
    """The bottleneck: a linear layer, then RMS 1 over the channels."""
    return rms_normalised(self.project(features))

  def magnitudes(self) -> Float[Array, "K"]:
    """The magnitude of each scale, positive."""
    return self.magnitude()

  def decode(self, total: Float[Array, "B n h w d"]) -> Float[Array, "B T H W 3"]:
    """The quantizer's sum to pixels, about in [-1, 1]."""
    return self.decoder(total)


class Encoder(nn.Module):
  """Stem, then residual blocks, halving the side between levels."""

  config: TokenizerConfig

  @nn.compact
  def __call__(self, video: Float[Array, "B T H W 3"]) -> Float[Array, "B n h w C"]:
    c = self.config
    if not self.has_variable("stream", "begun"):
      c.latent_frames(video.shape[1])
    carry(self, "begun", jnp.zeros(()))
    x = space_to_depth(video, c.patch)
    side = c.encoder_side
    time = c.encoder_time if c.temporal > 1 else 1
    stem = CausalConv(c.widths[0], c.temporal, stride=c.temporal, side=side, name="stem")
    x = stem(x)
    for level, width in enumerate(c.widths):
      if level:
        x = CausalConv(width, side=side, name=f"down_{level}")(space_to_depth(x, 2))
      for i in range(c.blocks):
        x = Block(width, time, side, name=f"level_{level}_block_{i}")(x)
    return nn.silu(Norm(name="norm")(x))


class Decoder(nn.Module):
  """The encoder mirrored."""

  config: TokenizerConfig

  @nn.compact
  def __call__(self, total: Float[Array, "B n h w d"]) -> Float[Array, "B T H W 3"]:
    c = self.config
    time = c.temporal_kernel if c.temporal > 1 else 1
    x = CausalConv(c.widths[-1], name="expand")(total)
    for level, width in reversed(list(enumerate(c.widths))):
      for i in range(c.blocks):
        x = Block(width, time, name=f"level_{level}_block_{i}")(x)
      if level:
        x = CausalConv(4 * c.widths[level - 1], name=f"up_{level}")(x)
        x = depth_to_space(x, 2)
    x = nn.silu(Norm(name="norm")(x))
    x = FramesHead(3 * c.patch**2, c.temporal, name="head")(x)
    return depth_to_space(x, c.patch)


class Block(nn.Module):
  """x + conv(silu(norm(conv(silu(norm(x)))))); the first convolution may look back in time."""

  width: int
  time: int
  side: int = 3

  @nn.compact
  def __call__(self, x: Float[Array, "B n h w C"]) -> Float[Array, "B n h w C"]:
    y = nn.silu(Norm(name="norm_1")(x))
    y = CausalConv(self.width, time=self.time, side=self.side, name="conv_1")(y)
    y = nn.silu(Norm(name="norm_2")(y))
    return x + CausalConv(self.width, side=self.side, name="conv_2")(y)


class Magnitudes(nn.Module):
  """exp(scale): positive whatever the optimizer does; "scale" is a name that is not decayed."""

  count: int

  @nn.compact
  def __call__(self) -> Float[Array, "K"]:
    # About the mean size of residuals of a fresh encoder; learned from there.
    init = nn.with_logical_partitioning(nn.initializers.constant(jnp.log(0.5)), (None,))
    return jnp.exp(self.param("scale", init, (self.count,), jnp.float32))


class CausalConv(nn.Module):
  """A convolution over time and space that sees no later frame.

  The kernel is [time, side, side, in, out]; its last slice reads the newest frame. Missing frames before
  the first are zeros. Slices are put side by side as channels of one 2-D convolution, since 3-D ones
  are slow on some devices, and slices that read nothing but the missing frames are left out: an image
  costs what it cost the image tokenizer.

  Attributes:
    features: output channels.
    time: temporal slices; output frame i reads frames up to i * stride, the newest.
    stride: frames from one output to the next.
    side: of the spatial kernel.
  """

  features: int
  time: int = 1
  stride: int = 1
  side: int = 3

  @nn.compact
  def __call__(self, x: Float[Array, "B T h w C"]) -> Float[Array, "B n h w F"]:
    kernel, bias = _kernel(self, self.time, self.side, x.shape[-1], self.features)
    kept = self.time - self.stride  # frames that the next chunk needs
    past = carried(self, "past")
    first = past is None
    missing = self.time - 1 if first else 0
    if first:
      past = jnp.zeros((x.shape[0], missing, *x.shape[2:]), x.dtype)
    x = jnp.concatenate([past, x], axis=1) if past.shape[1] else x
    carry(self, "past", x[:, x.shape[1] - kept :])
    frames = (x.shape[1] - self.time) // self.stride + 1
    last = (frames - 1) * self.stride
    used = [i for i in range(self.time) if last + i >= missing]
    taps = [x[:, i : i + last + 1 : self.stride] for i in used]
    taps = jnp.concatenate(taps, axis=-1) if len(taps) > 1 else taps[0]
    return _convolve(taps, [kernel[i] for i in used], axis=-2) + bias


class FramesHead(nn.Module):
  """`frames` output frames for each latent frame, but one for the first: the kernel's last slice."""

  features: int
  frames: int

  @nn.compact
  def __call__(self, x: Float[Array, "B n h w C"]) -> Float[Array, "B T h w F"]:
    kernel, bias = _kernel(self, self.frames, 3, x.shape[-1], self.features)
    first = carried(self, "begun") is None
    carry(self, "begun", jnp.zeros(()))
    drop = self.frames - 1 if first else 0
    if x.shape[1] == 1:  # no other slice is of use
      kernel, drop = kernel[drop:], 0
    y = _convolve(x, list(kernel), axis=-1)
    y = y.reshape(*x.shape[:-1], len(kernel), self.features)
    y = jnp.moveaxis(y, -2, 2).reshape(x.shape[0], -1, *x.shape[2:4], self.features)
    return y[:, drop:] + bias


def encode_chunk(
  model: VisualTokenizer, params: Any, video: Float[Array, "B T H W 3"], stream: Any = None
) -> Chunk:
  """Encodes a video part by part, exactly as if whole: first 1 + 4m frames, then multiples of 4.

  Args:
    model, params: the tokenizer.
    video: the next frames.
    stream: of the part before; None for the first.

  Raises:
    ValueError: the frames of a later part do not fill latent frames.
  """
  if stream is not None and video.shape[1] % model.config.temporal:
    raise ValueError(
      f"frames after the first part must be a multiple of {model.config.temporal},"
      f" got {video.shape[1]}"
    )
  return run_chunk(model, params, stream, lambda m: m.encode(video))


def decode_chunk(
  model: VisualTokenizer, params: Any, total: Float[Array, "B n h w d"], stream: Any = None
) -> Chunk:
  """Decodes any number of latent frames at a time, exactly as if whole; see `encode_chunk`."""
  return run_chunk(model, params, stream, lambda m: m.decode(total))


def initial_params(config: TokenizerConfig, key: Array) -> Any:
  """Fresh parameters without logical axis names."""
  return nn.unbox(jax.jit(lambda key: boxed_params(config, key))(key))


def boxed_params(config: TokenizerConfig, key: Array) -> Any:
  """Fresh parameters boxed with logical axis names, as a task gives them to the loop."""
  video = jnp.zeros((1, 1 + config.temporal, config.side, config.side, 3))
  return VisualTokenizer(config).init(key, video)["params"]


def to_float(video: Array) -> Float[Array, "*n"]:
  """uint8 pixels to [-1, 1]."""
  return video.astype(jnp.float32) / 127.5 - 1


def to_pixels(video: Float[Array, "*n"]) -> Array:
  """[-1, 1] to uint8, clipped and rounded."""
  return jnp.clip(jnp.round((video + 1) * 127.5), 0, 255).astype(jnp.uint8)


def space_to_depth(x: Float[Array, "*n H W C"], patch: int) -> Float[Array, "*n h w D"]:
  """Folds patch x patch pixels into channels."""
  *lead, height, width, channels = x.shape
  x = x.reshape(*lead, height // patch, patch, width // patch, patch, channels)
  return jnp.moveaxis(x, -3, -4).reshape(*lead, height // patch, width // patch, -1)


def depth_to_space(x: Float[Array, "*n h w D"], patch: int) -> Float[Array, "*n H W C"]:
  """The inverse of `space_to_depth`."""
  *lead, height, width, depth = x.shape
  x = x.reshape(*lead, height, width, patch, patch, depth // patch**2)
  return jnp.moveaxis(x, -3, -4).reshape(*lead, height * patch, width * patch, -1)


def _kernel(module: nn.Module, time: int, side: int, inputs: int, outputs: int):
  """Kernel [time, side, side, in, out] and bias [out], on every device: the tokenizer is small."""
  init = nn.initializers.lecun_normal(in_axis=(0, 1, 2, 3))
  kernel = module.param(
    "kernel",
    nn.with_logical_partitioning(init, (None,) * 5),
    (time, side, side, inputs, outputs),
    jnp.float32,
  )
  zeros = nn.with_logical_partitioning(nn.initializers.zeros_init(), (None,))
  return kernel, module.param("bias", zeros, (outputs,), jnp.float32)


def _convolve(x: Float[Array, "B n h w C"], slices: list[Array], axis: int) -> Array:
  """One 2-D convolution of every frame with kernels joined along their inputs (-2) or outputs (-1)."""
  kernel = jnp.concatenate(slices, axis=axis) if len(slices) > 1 else slices[0]
  flat = x.reshape(-1, *x.shape[2:])
  y = jax.lax.conv_general_dilated(
    flat, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  return y.reshape(*x.shape[:2], *y.shape[1:])
