"""Whisper's encoder (Radford et al. 2023): sound to features of 20 ms, as a teacher of the codec.

Weights come from `ernie_jax.convert`. Its blocks are those of the vision transformer: pre-norm attention
over all frames and an MLP. Keys have no bias there and one of zeros here, which no softmax can tell apart.

Letters: B rows, S samples, M mel frames of 10 ms, C mel bands, N features of 20 ms, D width.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ernie_jax.audio.analysis import RATE, framed
from ernie_jax.vision.vit import VitConfig, run_blocks
from ernie_jax.vision.vit_layers import ACTIVATIONS, Dense, LayerNorm

MEL_HOP = 160  # samples of a mel frame
STRIDE = 2 * MEL_HOP  # samples of a feature
_WINDOW = 400
_FLOOR = 1e-10  # of the power in a band
_RANGE = 8.0  # tens of powers below the loudest that are kept


@dataclasses.dataclass(frozen=True)
class WhisperConfig:
  """Shape of the encoder. Defaults: Whisper tiny.

  Attributes:
    bands: C, 80 or, from large-v3 on, 128.
    depth, width, heads, mlp_width, activation, norm_eps: of the blocks.
    positions: the longest sound in features: 30 s.
  """

  bands: int = 80
  depth: int = 4
  width: int = 384
  heads: int = 6
  mlp_width: int = 1536
  activation: str = "gelu"
  norm_eps: float = 1e-5
  positions: int = 1500

  def __post_init__(self):
    for name in ("bands", "positions"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
    self.blocks()

  def blocks(self) -> VitConfig:
    """The blocks. Raises: ValueError naming a size that is too small or does not divide."""
    return VitConfig(
      depth=self.depth,
      width=self.width,
      heads=self.heads,
      mlp_width=self.mlp_width,
      activation=self.activation,
      norm_eps=self.norm_eps,
    )


class WhisperEncoder(nn.Module):
  """Log-mel frames to features; the positions of a sound shorter than all are the first ones."""

  config: WhisperConfig

  @nn.compact
  def __call__(self, mel: Float[Array, "B M C"]) -> Float[Array, "B N D"]:
    """Encodes `log_mel` of a sound.

    Raises:
      ValueError: an odd number of frames, or more than there are positions for.
    """
    c, act = self.config, ACTIVATIONS[self.config.activation]
    if mel.shape[1] % 2 or mel.shape[1] > 2 * c.positions:
      raise ValueError(f"mel must be [B, 2n <= {2 * c.positions}, {c.bands}], got {mel.shape}")
    x = act(Dense((c.width,), (None, None, "embed"), in_axes=2, name="conv1")(_around(mel, 1)))
    x = act(Dense((c.width,), (None, None, "embed"), in_axes=2, name="conv2")(_around(x, 2)))
    init = nn.with_logical_partitioning(nn.initializers.normal(0.02), (None, "embed"))
    positions = self.param("positions", init, (c.positions, c.width), jnp.float32)
    x = run_blocks(c.blocks(), x + positions[: x.shape[1]])
    return LayerNorm(c.norm_eps, name="last_norm")(x)


def log_mel(waveform: Float[Array, "B S"], bands: int) -> Float[Array, "B M C"]:
  """Whisper's input: the logarithm of power in mel bands, within 80 dB of the loudest, about [-1, 1].

  Args:
    waveform: in [-1, 1] at 16 kHz; S = 160 M, more than half a window (200 samples).
    bands: C.
  """
  padded = jnp.pad(waveform, ((0, 0), (_WINDOW // 2, _WINDOW // 2)), mode="reflect")
  # Pieces of 80 samples divide window and hop; every second window is one of a mel frame.
  windows = framed(padded, _WINDOW, MEL_HOP // 2)[:, : waveform.shape[1] // (MEL_HOP // 2) : 2]
  bell = np.hanning(_WINDOW + 1)[:-1].astype(np.float32)
  spectrum = jnp.fft.rfft(windows * bell)
  power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
  mel = jnp.log10(jnp.maximum(power @ slaney_bands(bands), _FLOOR))
  loudest = mel.max(axis=(1, 2), keepdims=True)
  return (jnp.maximum(mel, loudest - _RANGE) + 4) / 4


def slaney_bands(bands: int) -> Float[np.ndarray, "bins C"]:
  """Triangles of equal area, even below 1 kHz and even in the logarithm above (Slaney 1998), to 8 kHz."""
  to_hz = lambda mel: np.where(
    mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27)
  )
  top = 15 + np.log(8000 / 1000) * 27 / np.log(6.4)
  edges = to_hz(np.linspace(0, top, bands + 2))
  hz = np.fft.rfftfreq(_WINDOW, 1 / RATE)[:, None]
  rising = (hz - edges[:-2]) / np.diff(edges)[:-1]
  falling = (edges[2:] - hz) / np.diff(edges)[1:]
  area = 2 / (edges[2:] - edges[:-2])
  return (area * np.maximum(0, np.minimum(rising, falling))).astype(np.float32)


def listen(
  config: WhisperConfig, params, waveform: Float[Array, "B S"], seconds: float
) -> Float[Array, "B N D"]:
  """Features of a sound, of which `seconds` are encoded: silence follows what is shorter.

  Args:
    config, params: the encoder.
    waveform: S = 320 N samples in [-1, 1] at 16 kHz.
    seconds: 30 as Whisper was trained; less costs less, and 0 stands for the sound alone.

  Raises:
    ValueError: the sound is longer than the encoder's positions, or no whole number of features.
  """
  samples = waveform.shape[1]
  if samples % STRIDE or samples > config.positions * STRIDE:
    raise ValueError(
      f"waveform must be [B, {STRIDE}n <= {config.positions * STRIDE}], got {waveform.shape}"
    )
  longest = min(round(seconds * RATE) // STRIDE, config.positions) * STRIDE
  padded = jnp.pad(waveform, ((0, 0), (0, max(0, longest - samples))))
  mel = log_mel(padded, config.bands)
  features = WhisperEncoder(config).apply({"params": params}, mel)
  return features[:, : samples // STRIDE]


def _around(x: Float[Array, "B T C"], stride: int) -> Float[Array, "B n 3 C"]:
  """Each `stride`-th element between its neighbours: what a convolution of three sees."""
  padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
  return jnp.stack([padded[:, i : i + x.shape[1] : stride] for i in range(3)], axis=2)
