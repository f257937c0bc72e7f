"""From the quantizer's sum to sound: a source with filters, or a spectrum with phases.

Letters: B rows, T codec frames, F frames of `HOP` samples, S samples, C channels, D width of the latent.

* `source_filter`: pulses at a decoded pitch and noise, each through a minimum-phase filter that a frame's
  cepstrum gives. That is how the world's voices are made: a favourable case.
* `istft` (Vocos, arXiv 2306.00814): magnitude and phase of each frame, added up where they overlap. It
  supposes nothing of how sound is made. A phase alone is hard to guess frame by frame, so the net is told
  where the cycles of the decoded pitch stand at each frame (a clock), as neural source filters are.

Both decode pitch by a head of its own, and sample s from codec frames up to s // STRIDE, no later ones.
"""

import dataclasses
from typing import Literal

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ernie_jax.audio import sources
from ernie_jax.audio.analysis import HOP
from ernie_jax.audio.layers import Block, CausalConv
from ernie_jax.audio.sources import FRAMES
from ernie_jax.causal import Norm, carried, carry

_FFT = 512  # also the length of a block: the response of a filter, or a window
_MIDDLE_HZ, _OCTAVES = 150.0, 2.0  # pitch that a head's 0 means, and how far it reaches
_QUIET = 0.1  # gain of the first kernels of magnitudes: sound starts at about the level of speech
_START = -3.0  # log magnitude of filters of a fresh decoder
_LOUDEST = 6.0  # log magnitude that a head may give, at most


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
  """The shape of a decoder.

  Attributes:
    kind: see the module docstring.
    width, blocks: of the net at the rate of codec frames.
    frame_width, frame_blocks: of the net at 125 frames a second.
    voice_cepstra, noise_cepstra: coefficients of the filters of `source_filter`.
    clock: harmonics whose phase `istft` is told; 0 for none.
  """

  kind: Literal["source_filter", "istft"] = "source_filter"
  width: int = 256
  blocks: int = 3
  frame_width: int = 128
  frame_blocks: int = 3
  voice_cepstra: int = 80
  noise_cepstra: int = 32
  clock: int = 8

  def __post_init__(self):
    for name in ("width", "blocks", "frame_width", "frame_blocks"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
    for name in ("voice_cepstra", "noise_cepstra"):
      if not 1 <= getattr(self, name) <= _FFT // 2:
        raise ValueError(f"{name} must be between 1 and {_FFT // 2}, got {getattr(self, name)}")
    if self.clock < 0:
      raise ValueError(f"clock must not be negative, got {self.clock}")


@flax.struct.dataclass
class Decoded:
  """What a decoder says.

  Attributes:
    waveform: float32 [B, S], S = T * STRIDE, about -1 to 1, not clipped.
    f0: float32 [B, F], the pitch in Hz, given also where there is no voice.
  """

  waveform: Float[Array, "B S"]
  f0: Float[Array, "B F"]


class Decoder(nn.Module):
  """The net that both kinds share, and their heads."""

  config: DecoderConfig

  @nn.compact
  def __call__(
    self, total: Float[Array, "B T D"], key: Array, f0: Float[Array, "B F"] | None = None
  ) -> Decoded:
    """Decodes the quantizer's sum.

    Args:
      total: of a whole clip, or of its next part.
      key: of the noise.
      f0: pitch in Hz to sound with where it is above 0, in place of the decoded one (in training).
    """
    c = self.config
    x = CausalConv(c.width, 3, name="expand")(total)
    for i in range(c.blocks):
      x = Block(c.width, 3, dilation=1 + i % 3, name=f"block_{i}")(x)
    x = CausalConv(FRAMES * c.frame_width, name="unfold")(nn.silu(Norm(name="norm")(x)))
    x = x.reshape(x.shape[0], -1, c.frame_width)
    for i in range(c.frame_blocks):
      x = Block(c.frame_width, 5, dilation=1 + i % 3, name=f"frame_block_{i}")(x)
    x = nn.silu(Norm(name="frame_norm")(x))
    octaves = _OCTAVES * jnp.tanh(CausalConv(1, name="pitch")(x)[..., 0] / _OCTAVES)
    found = _MIDDLE_HZ * 2**octaves
    sounding = found if f0 is None else jnp.where(f0 > 0, f0, found)
    phase = carried(self, "phase") or sources.still(len(x))
    voice = sources.voice(sounding, phase)
    carry(self, "phase", voice.phase)
    head = self._filters if c.kind == "source_filter" else self._spectrum
    blocks = head(x, voice, key)
    waveform, tail = sources.overlap(blocks, carried(self, "tail"))
    carry(self, "tail", tail)
    return Decoded(waveform=waveform, f0=found)

  def _filters(self, x: Array, voice: sources.Voice, key: Array) -> Float[Array, "B F W"]:
    c = self.config
    start = carried(self, "start")
    start = jnp.zeros((), jnp.int32) if start is None else start
    frames = x.shape[1] // FRAMES
    carry(self, "start", start + frames)
    noise = sources.noise(key, start, frames)
    cepstra = CausalConv(c.voice_cepstra + c.noise_cepstra, gain=_QUIET, name="cepstra")(x)
    voiced = _response(cepstra[..., : c.voice_cepstra])
    hissed = _response(cepstra[..., c.voice_cepstra :])
    spectrum = lambda s: jnp.fft.rfft(s.reshape(-1, x.shape[1], HOP), _FFT)
    return jnp.fft.irfft(spectrum(voice.pulses) * voiced + spectrum(noise) * hissed, _FFT)

  def _spectrum(self, x: Array, voice: sources.Voice, key: Array) -> Float[Array, "B F W"]:
    del key
    c = self.config
    if c.clock:
      turns = 2 * jnp.pi * voice.turns[..., None] * jnp.arange(1, c.clock + 1)
      clock = jnp.concatenate([jnp.cos(turns), jnp.sin(turns)], axis=-1)
      x = x + CausalConv(c.frame_width, name="clock")(clock)
    for i in range(c.frame_blocks):
      x = Block(2 * c.frame_width, 3, name=f"spectrum_block_{i}")(x)
    x = nn.silu(Norm(name="spectrum_norm")(x))
    bins = _FFT // 2 + 1
    magnitude = CausalConv(bins, gain=_QUIET, name="magnitude")(x)
    direction = CausalConv(2 * bins, name="direction")(x)
    real, imaginary = direction[..., :bins], direction[..., bins:]
    size = jnp.exp(jnp.minimum(magnitude, _LOUDEST))
    size = size * jax.lax.rsqrt(jnp.square(real) + jnp.square(imaginary) + 1e-6)
    bell = np.hanning(_FFT + 1)[:_FFT].astype(np.float32)
    return jnp.fft.irfft(jax.lax.complex(size * real, size * imaginary), _FFT) * bell


def _response(cepstra: Float[Array, "B F N"]) -> Array:
  """The minimum-phase response [B, F, bins] of a causal cepstrum: the exponential of its transform."""
  angles = 2 * np.pi * np.arange(_FFT // 2 + 1) * np.arange(cepstra.shape[-1])[:, None] / _FFT
  size = jnp.minimum(cepstra @ np.cos(angles).astype(np.float32) + _START, _LOUDEST)
  turn = cepstra @ -np.sin(angles).astype(np.float32)
  size = jnp.exp(size)
  return jax.lax.complex(size * jnp.cos(turn), size * jnp.sin(turn))
