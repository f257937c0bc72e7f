"""What the encoder hears: mel bands and an image of pitch, both from windows that end with their frame.

Letters: B rows, S samples, F frames of `HOP` samples, W samples of a window, M bands, P pitches.

Fixed functions of the sound, no weights: a small network then needs not learn a filter bank, and pitch,
which convolutions find slowly, lies open in the autocorrelation.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

RATE, HOP = 16_000, 128  # samples a second, and of a frame of 8 ms
LONGEST = 768  # samples of the longest window: three periods of a low voice
MELS, PITCHES = 64, 96

_MEL_WINDOW, _MEL_FFT = 384, 512
_PITCH_FFT = 1024  # no wrap-around: the longest lag is 229 samples
_PITCH_LOW, _PITCH_HIGH, _PITCH_CUT = 70.0, 400.0, 1200.0  # Hz
_QUIET = 1e-6  # of power; below the noise of 16 bits


def features(padded: Float[Array, "B S"]) -> Float[Array, "B F C"]:
  """Features of each frame, of about unit size.

  Args:
    padded: the sound after the `LONGEST - HOP` samples before it; S = LONGEST - HOP + F * HOP.
  """
  count = (padded.shape[1] - LONGEST) // HOP + 1
  windows = framed(padded, LONGEST, HOP)[:, :count]
  bell = np.hanning(_MEL_WINDOW + 1)[1:].astype(np.float32)
  power = _power(windows[..., LONGEST - _MEL_WINDOW :] * bell, _MEL_FFT)
  mels = jnp.log(power @ mel_bands(_MEL_FFT, MELS) + _QUIET)
  low = _power(windows * np.hanning(LONGEST + 1)[1:].astype(np.float32), _PITCH_FFT)
  cosines = _pitch_cosines()
  low = low[..., 2 : 2 + len(cosines)]
  energy = low.sum(-1, keepdims=True)
  pitches = low @ cosines / (energy + _QUIET)
  return jnp.concatenate([(mels + 4) / 4, pitches, (jnp.log(energy + _QUIET) + 2) / 4], axis=-1)


def framed(x: Float[Array, "B S"], window: int, hop: int) -> Float[Array, "B F W"]:
  """Overlapping windows; `hop` divides `window`, and what does not fill a window is left out.

  Made of shifted reshapes, whose gradient is cheap, rather than of a gather.
  """
  count = (x.shape[1] - window) // hop + 1
  pieces = x[:, : (count - 1) * hop + window].reshape(x.shape[0], -1, hop)
  return jnp.concatenate([pieces[:, i : i + count] for i in range(window // hop)], axis=-1)


def mel_bands(fft: int, bands: int) -> Float[np.ndarray, "bins M"]:
  """Triangles evenly spaced in mel from 60 Hz to 7.8 kHz; a band narrower than a bin takes the nearest."""
  to_mel = lambda hz: 2595 * np.log10(1 + hz / 700)
  mel = to_mel(np.fft.rfftfreq(fft, 1 / RATE))
  edges = np.linspace(to_mel(60.0), to_mel(7800.0), bands + 2)
  shape = np.maximum(0, 1 - np.abs(mel[:, None] - edges[1:-1]) / (edges[1] - edges[0]))
  empty = np.flatnonzero(shape.sum(0) == 0)
  shape[np.abs(mel[:, None] - edges[1 + empty]).argmin(0), empty] = 1
  return shape.astype(np.float32)


def _power(windows: Array, fft: int) -> Array:
  spectrum = jnp.fft.rfft(windows, fft)
  return jnp.square(spectrum.real) + jnp.square(spectrum.imag)


def _pitch_cosines() -> Float[np.ndarray, "bins P"]:
  """From power below the cut, but for what does not swing, to the autocorrelation at lags of pitches."""
  hz = np.fft.rfftfreq(_PITCH_FFT, 1 / RATE)[2:]
  pitches = np.geomspace(_PITCH_LOW, _PITCH_HIGH, PITCHES)
  return np.cos(2 * np.pi * hz[hz < _PITCH_CUT, None] / pitches).astype(np.float32)
