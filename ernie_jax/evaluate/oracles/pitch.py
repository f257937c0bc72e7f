"""Pitch by autocorrelation, frame by frame, and how far two pitches are apart.

The autocorrelation of each window is divided by that of the window itself (Boersma, 1993), so that its
peak does not lean to short periods; only what lies below 1.2 kHz counts, where a voice's harmonics are
strong. A second pass looks near the median of the first, which leaves no octave errors.

Letters: S samples, F frames, N lags.
"""

import numpy as np
from jaxtyping import Float

RATE, HOP = 16_000, 128  # samples a second, and of a frame
LOWEST, HIGHEST = 70.0, 400.0  # Hz
_WINDOW = 768  # 48 ms: three periods of the lowest voices
_FFT = 2048
_CUT = 1200.0  # Hz
_VOICED = 0.55  # autocorrelation from which on a frame is voiced
_QUIET = 1e-3  # of the power of the loud frames: below is silence
_SHORTER = 0.03  # in favour of the shorter of two periods, an octave
_NEAR = 8.0  # semitones around the median


def read_pitch(waveform: Float[np.ndarray, "S"]) -> Float[np.ndarray, "F"]:
  """Pitch in Hz at the middle of each frame of `HOP` samples; 0 where there is no voice. F = S // HOP."""
  count = len(waveform) // HOP
  if not count:
    return np.zeros(0, np.float32)
  correlation, power = _correlations(waveform, count)
  voiced = power > _QUIET * np.percentile(power, 90)
  first = _peaks(correlation, LOWEST, HIGHEST)
  sure = voiced & (first[1] > _VOICED)
  if not sure.any():
    return np.zeros(count, np.float32)
  middle = np.median(first[0][sure])
  reach = 2 ** (_NEAR / 12)
  hz, strength = _peaks(correlation, max(LOWEST, middle / reach), min(HIGHEST, middle * reach))
  return np.where(voiced & (strength > _VOICED), hz, 0).astype(np.float32)


def mean_pitch(f0: Float[np.ndarray, "F"]) -> float:
  """The median in Hz of the voiced frames; NaN where there are none."""
  voiced = f0[f0 > 0]
  return float(np.median(voiced)) if len(voiced) else float("nan")


def semitones(found: np.ndarray | float, wanted: np.ndarray | float) -> np.ndarray:
  """How far `found` lies above `wanted`, both in Hz."""
  return 12 * np.log2(np.asarray(found, np.float64) / np.asarray(wanted, np.float64))


def pitch_errors(
  found: Float[np.ndarray, "F"], wanted: Float[np.ndarray, "F"]
) -> Float[np.ndarray, "n"]:
  """Semitones between two tracks, absolute, in the frames in which both are voiced."""
  length = min(len(found), len(wanted))
  found, wanted = found[:length], wanted[:length]
  both = (found > 0) & (wanted > 0)
  return np.abs(semitones(found[both], wanted[both]))


def _correlations(waveform: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
  """Normalised autocorrelations [F, N] and the power [F] below the cut."""
  side = (_WINDOW - HOP) // 2
  padded = np.pad(np.asarray(waveform, np.float32), (side, _WINDOW))
  windows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::HOP][:count]
  bell = np.hanning(_WINDOW + 2)[1:-1].astype(np.float32)
  energy = np.abs(np.fft.rfft(windows * bell, _FFT)) ** 2
  energy[:, np.fft.rfftfreq(_FFT, 1 / RATE) > _CUT] = 0
  energy[:, :2] = 0  # what does not swing
  longest = int(RATE / LOWEST) + 2
  own = np.fft.irfft(np.abs(np.fft.rfft(bell, _FFT)) ** 2)[:longest]
  correlation = np.fft.irfft(energy)[:, :longest]
  power = correlation[:, 0].copy()
  return correlation / (power[:, None] + 1e-12) / (own / own[0]), power


def _peaks(correlation: np.ndarray, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
  """Hz and height of the best peak of each frame between two pitches, found by a parabola."""
  lags = np.arange(int(RATE / high), min(int(RATE / low) + 1, correlation.shape[1] - 1))
  inside = correlation[:, lags]
  before, after = correlation[:, lags - 1], correlation[:, lags + 1]
  top = (inside >= before) & (inside >= after)
  best = np.where(top, inside - _SHORTER * np.log2(lags), -np.inf).argmax(-1)
  rows = np.arange(len(correlation))
  left, mid, right = before[rows, best], inside[rows, best], after[rows, best]
  bend = left - 2 * mid + right
  shift = np.where(bend < 0, 0.5 * (left - right) / np.where(bend < 0, bend, 1), 0)
  found = top[rows, best]
  return RATE / (lags[best] + np.clip(shift, -1, 1)), np.where(found, mid, 0)
