"""What the codec trains on: spectra at several resolutions, pitch, and alignment to a teacher.

Letters: B rows, S samples, F frames of 8 ms, T codec frames, K classes or features.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ernie_jax.audio.analysis import framed, mel_bands

_OVERLAP = 4  # windows over each sample
# Of magnitudes, below which differences do not count. Formants of quiet speech and hisses are 1e-4 to 1e-3:
# with floors of 1e-3 and 1e-2 a codec kept pitch and loudness and lost every word.
_MEL_FLOOR, _STFT_FLOOR = 1e-5, 1e-4
_ROUND = 1e-7  # keeps the gradient of a root finite


@dataclasses.dataclass(frozen=True)
class SpectraConfig:
  """The resolutions.

  Attributes:
    windows: samples of each window.
    bands: mel bands of each.
  """

  windows: tuple[int, ...] = (256, 512, 1024, 2048)
  bands: tuple[int, ...] = (32, 64, 80, 80)

  def __post_init__(self):
    if len(self.windows) != len(self.bands) or not self.windows:
      raise ValueError(f"bands must be as many as windows, got {self.bands} for {self.windows}")
    check_windows(self.windows)


def check_windows(windows: Sequence[int]) -> None:
  """Raises: ValueError where `magnitudes` cannot take a window of so many samples."""
  for window in windows:
    if window < _OVERLAP or window % _OVERLAP:
      raise ValueError(f"windows must be multiples of {_OVERLAP}, got {window}")


@dataclasses.dataclass(frozen=True)
class SpectralTerms:
  """Means over the resolutions.

  Attributes:
    mel: absolute difference of log mel magnitudes.
    stft: absolute difference of log magnitudes, and the relative error of magnitudes (Yamamoto et al. 2020).
  """

  mel: Array
  stft: Array


def spectral_terms(
  found: Float[Array, "B S"], wanted: Float[Array, "B S"], config: SpectraConfig
) -> SpectralTerms:
  """Compares two sounds whatever their phases."""
  mel, stft = [], []
  for window, bands in zip(config.windows, config.bands):
    a, b = (magnitudes(x, window) for x in (found, jax.lax.stop_gradient(wanted)))
    triangles = mel_bands(window, bands)
    triangles = triangles / triangles.sum(0)
    mel.append(_log_distance(a @ triangles, b @ triangles, _MEL_FLOOR))
    energy = jnp.sqrt(jnp.square(b).sum((1, 2)) + _ROUND)
    error = jnp.sqrt(jnp.square(a - b).sum((1, 2)) + _ROUND)
    stft.append(_log_distance(a, b, _STFT_FLOOR) + jnp.minimum(error / (energy + 0.1), 5).mean())
  return SpectralTerms(mel=sum(mel) / len(mel), stft=sum(stft) / len(stft))


def magnitudes(x: Float[Array, "B S"], window: int) -> Float[Array, "B N bins"]:
  """Of windows a quarter apart, as large as the sound's own: a sine of amplitude 1 gives about 1."""
  bell = np.hanning(window + 1)[:window].astype(np.float32)
  x = jnp.pad(x, ((0, 0), (window // 2, window // 2)))
  spectrum = jnp.fft.rfft(framed(x, window, window // _OVERLAP) * (2 / bell.sum() * bell))
  return jnp.sqrt(jnp.square(spectrum.real) + jnp.square(spectrum.imag) + _ROUND**2)


def pitch_loss(
  found: Float[Array, "B F"], wanted: Float[Array, "B F"], *, knee: float = 0.5
) -> Float[Array, ""]:
  """Huber distance in semitones over the frames with voice (wanted above 0), linear beyond `knee`."""
  voiced = wanted > 0
  off = 12 * jnp.log2(found / jnp.where(voiced, wanted, found))
  size = jnp.abs(off)
  loss = jnp.where(size < knee, size**2 / (2 * knee), size - knee / 2)
  return (loss * voiced).sum() / jnp.maximum(voiced.sum(), 1)


def pitch_error(found: Float[Array, "B F"], wanted: Float[Array, "B F"]) -> Float[Array, ""]:
  """Mean absolute semitones over the frames with voice."""
  voiced = wanted > 0
  off = jnp.abs(12 * jnp.log2(found / jnp.where(voiced, wanted, found)))
  return (off * voiced).sum() / jnp.maximum(voiced.sum(), 1)


def _log_distance(a: Array, b: Array, floor: float) -> Array:
  return jnp.abs(jnp.log(a + floor) - jnp.log(b + floor)).mean()
