"""The codec: causal analysis, residual codes at 12.5 Hz, and a decoder (ERNIE 5.0, section 4).

Letters: B rows, S samples, T codec frames, F = 10 T frames of 8 ms, D width of the latent, R levels, V codes.

Choices:
* Nothing looks ahead: codes of frame t depend on samples before its end, sound of frame t on codes up to t.
  Parts of a clip give what the whole gives.
* The encoder hears mel bands and autocorrelations (`analysis`), which cost no weights.
* The latent is RMS-normalised straight after a linear layer: its scale cannot drift away from codebooks
  that follow it slowly.
* Codebooks are state beside the parameters; every function takes both.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ernie_jax.audio import analysis, sources
from ernie_jax.audio.decoders import Decoded, Decoder, DecoderConfig
from ernie_jax.audio.layers import Block, CausalConv, with_past
from ernie_jax.audio.quantizer import (
  Quantized,
  RvqConfig,
  fresh_codebooks,
  quantize,
  total_from_codes,
)
from ernie_jax.causal import Chunk, Norm, rms_normalised, run_chunk

STRIDE = sources.STRIDE  # samples of a codec frame


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
  """The shape of the encoder; names as in `DecoderConfig`."""

  width: int = 256
  blocks: int = 2
  frame_width: int = 128
  frame_blocks: int = 2

  def __post_init__(self):
    for field in dataclasses.fields(self):
      if getattr(self, field.name) < 1:
        raise ValueError(f"{field.name} must be at least 1, got {getattr(self, field.name)}")


@dataclasses.dataclass(frozen=True)
class CodecConfig:
  """The shape of the codec."""

  quantizer: RvqConfig = RvqConfig()
  encoder: EncoderConfig = EncoderConfig()
  decoder: DecoderConfig = DecoderConfig()


@flax.struct.dataclass
class Reconstruction:
  """What comes out of a codec, and what it went through.

  Attributes:
    waveform, f0: see `Decoded`.
    latent: float32 [B, T, D], before quantisation.
    quantized: codes and their sum.
  """

  waveform: Float[Array, "B S"]
  f0: Float[Array, "B F"]
  latent: Float[Array, "B T D"]
  quantized: Quantized


class Codec(nn.Module):
  """Encoder and decoder; all in float32."""

  config: CodecConfig

  def setup(self):
    self.encoder = Encoder(self.config.encoder)
    self.project = CausalConv(self.config.quantizer.width)
    self.decoder = Decoder(self.config.decoder)

  def __call__(
    self,
    waveform: Float[Array, "B S"],
    vectors: Float[Array, "R V D"],
    *,
    keep: Bool[Array, "B R"] | None = None,
    key: Array | None = None,
    f0: Float[Array, "B F"] | None = None,
  ) -> Reconstruction:
    """Encodes, quantises with the levels of `keep` (None: all), and decodes; see `decode`."""
    latent = self.encode(waveform)
    quantized = quantize(latent, vectors, self.config.quantizer, keep=keep)
    out = self.decode(quantized.total, key=key, f0=f0)
    return Reconstruction(waveform=out.waveform, f0=out.f0, latent=latent, quantized=quantized)

  def encode(self, waveform: Float[Array, "B S"]) -> Float[Array, "B T D"]:
    """Sound in [-1, 1] at 16 kHz to the latent that the quantizer takes.

    Raises:
      ValueError: not whole codec frames.
    """
    if waveform.ndim != 2 or waveform.shape[1] % STRIDE or not waveform.shape[1]:
      raise ValueError(f"waveform must be [B, {STRIDE}n], got {waveform.shape}")
    return rms_normalised(self.project(self.encoder(waveform.astype(jnp.float32))))

  def decode(
    self,
    total: Float[Array, "B T D"],
    *,
    key: Array | None = None,
    f0: Float[Array, "B F"] | None = None,
  ) -> Decoded:
    """The quantizer's sum to sound.

    Args:
      total: see `total_from_codes`.
      key: of the decoder's noise; None for always the same.
      f0: see `Decoder`.
    """
    return self.decoder(total, jax.random.key(0) if key is None else key, f0)


class Encoder(nn.Module):
  """Features of 8 ms, a net over them, folded to codec frames, a net over those."""

  config: EncoderConfig

  @nn.compact
  def __call__(self, waveform: Float[Array, "B S"]) -> Float[Array, "B T C"]:
    c = self.config
    padded = with_past(self, "past", waveform, analysis.LONGEST - analysis.HOP)
    x = CausalConv(c.frame_width, name="stem")(analysis.features(padded))
    for i in range(c.frame_blocks):
      x = Block(c.frame_width, 5, name=f"frame_block_{i}")(x)
    x = x.reshape(x.shape[0], -1, sources.FRAMES * c.frame_width)
    x = CausalConv(c.width, name="fold")(x)
    for i in range(c.blocks):
      x = Block(c.width, 3, name=f"block_{i}")(x)
    return Norm(name="norm")(x)


def encode_chunk(
  model: Codec, params: Any, waveform: Float[Array, "B S"], stream: Any = None
) -> Chunk:
  """Encodes a clip part by part, exactly as if whole.

  Args:
    model, params: the codec.
    waveform: the next samples, whole codec frames.
    stream: of the part before; None for the first.
  """
  return run_chunk(model, params, stream, lambda m: m.encode(waveform))


def decode_chunk(
  model: Codec, params: Any, total: Float[Array, "B T D"], stream: Any = None
) -> Chunk:
  """Decodes any number of codec frames at a time, exactly as if whole; see `encode_chunk`."""
  return run_chunk(model, params, stream, lambda m: m.decode(total).waveform)


def encode_codes(
  model: Codec, params: Any, vectors: Float[Array, "R V D"], waveform: Float[Array, "B S"]
) -> Int[Array, "B T R"]:
  """Sound of whole codec frames (see `whole_frames`) to codes."""
  latent = model.apply({"params": params}, waveform, method=Codec.encode)
  return quantize(latent, vectors, model.config.quantizer).codes


def decode_codes(
  model: Codec, params: Any, vectors: Float[Array, "R V D"], codes: Int[Array, "B T R"]
) -> Float[Array, "B S"]:
  """Codes, of all levels or of the first ones, to sound."""
  total = total_from_codes(codes, vectors)
  return model.apply({"params": params}, total, method=Codec.decode).waveform


def whole_frames(samples: int) -> int:
  """Codec frames that hold so many samples."""
  return -(-samples // STRIDE)


def initial_params(config: CodecConfig, key: Array) -> Any:
  """Fresh parameters without logical axis names."""
  return nn.unbox(jax.jit(lambda key: boxed_params(config, key))(key))


def boxed_params(config: CodecConfig, key: Array) -> Any:
  """Fresh parameters boxed with logical axis names, as a task gives them to the loop."""
  vectors = fresh_codebooks(config.quantizer, key).vectors
  return Codec(config).init(key, jnp.zeros((1, STRIDE)), vectors)["params"]
