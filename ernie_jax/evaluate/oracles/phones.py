"""What a frame sounds like: cepstra in context, discriminants, and mixtures for each third of a phone.

All of it is fitted in closed form or by a few rounds of expectation and maximisation, from labelled
frames. Nothing here knows a model or a codec.

Letters: S samples, F frames, M mel bands, C cepstra, D features, J states (thirds of phones), G parts of a
mixture.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int
from scipy.fft import dct
from scipy.linalg import eigh

RATE, HOP = 16_000, 128  # samples a second, and of a frame
CEPSTRA = 18
_WINDOW, _FFT, _BANDS = 400, 512, 32
_CONTEXT = (-9, -6, -3, 0, 3, 6, 9)  # frames that a feature sees
_FLOOR = 1e-3  # of the power of loud bands: quieter is silence, whatever the recording
_SHRINK = 1e-3  # of covariances towards their mean


def cepstra(waveform: Float[np.ndarray, "S"]) -> Float[np.ndarray, "F C"]:
  """Mel cepstra of each frame of `HOP` samples, of the waveform brought to a common level. F = S // HOP."""
  count = len(waveform) // HOP
  side = (_WINDOW - HOP) // 2
  padded = np.pad(np.asarray(waveform, np.float32), (side, _WINDOW))
  windows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::HOP][:count]
  power = np.abs(np.fft.rfft(windows * np.hanning(_WINDOW).astype(np.float32), _FFT)) ** 2
  bands = power @ _mel_bands()
  loud = np.percentile(bands.mean(-1), 90) if count else 1.0
  logs = np.log(bands / (loud + 1e-12) + _FLOOR)
  return dct(logs, norm="ortho", axis=-1)[:, :CEPSTRA].astype(np.float32)


def in_context(values: Float[np.ndarray, "F C"]) -> Float[np.ndarray, "F D"]:
  """Each frame with those around it; the edges are held."""
  at = np.arange(len(values))
  parts = [values[np.clip(at + c, 0, len(values) - 1)] for c in _CONTEXT]
  return np.concatenate(parts, -1)


@dataclasses.dataclass(frozen=True, eq=False)
class Mixtures:
  """The fitted scores.

  Attributes:
    mean: of the features in context.
    discriminants: [D, d], to directions that tell states apart, of unit variance within a state.
    weights: log shares [J, G].
    centres: [J, G, d].
    spreads: standard deviations [J, G, d].
  """

  mean: Float[np.ndarray, "D"]
  discriminants: Float[np.ndarray, "D d"]
  weights: Float[np.ndarray, "J G"]
  centres: Float[np.ndarray, "J G d"]
  spreads: Float[np.ndarray, "J G d"]

  def project(self, values: Float[np.ndarray, "F C"]) -> Float[np.ndarray, "F d"]:
    """Cepstra to discriminants."""
    return (in_context(values) - self.mean) @ self.discriminants

  def scores(self, values: Float[np.ndarray, "F C"]) -> Float[np.ndarray, "F J"]:
    """Log likelihood of each state in each frame, up to a constant."""
    states, parts, width = self.centres.shape
    logs = _log_parts(
      self.project(values),
      self.centres.reshape(-1, width),
      self.spreads.reshape(-1, width),
      self.weights.reshape(-1),
    )
    return np.logaddexp.reduce(logs.reshape(-1, states, parts), axis=-1)


def fit_mixtures(
  values: list[Float[np.ndarray, "F C"]],
  states: list[Int[np.ndarray, "F"]],
  *,
  width: int = 30,
  parts: int = 6,
  rounds: int = 8,
) -> Mixtures:
  """Fits discriminants and then each state's mixture of Gaussians with diagonal covariance.

  Args:
    values: cepstra of each clip.
    states: the state of each of their frames; every state occurs.
    width: how many discriminants.
    parts: of each mixture.
    rounds: of expectation and maximisation.
  """
  features = np.concatenate([in_context(v) for v in values])
  labels = np.concatenate(states)
  mean = features.mean(0)
  discriminants = _discriminants(features - mean, labels, width)
  points = (features - mean) @ discriminants
  fitted = [_fit_one(points[labels == j], parts, rounds) for j in range(labels.max() + 1)]
  weights, centres, spreads = (np.stack(group) for group in zip(*fitted))
  return Mixtures(mean, discriminants, weights, centres, spreads)


def _discriminants(centred: np.ndarray, labels: np.ndarray, width: int) -> np.ndarray:
  """Fisher's linear discriminants: largest variance between states for unit variance within."""
  total = centred.T @ centred / len(centred)
  between = np.zeros_like(total)
  for j in range(labels.max() + 1):
    chosen = centred[labels == j]
    middle = chosen.mean(0)
    between += len(chosen) / len(centred) * np.outer(middle, middle)
  within = total - between
  within += _SHRINK * np.trace(within) / len(within) * np.eye(len(within))
  _, directions = eigh(between, within)
  return directions[:, ::-1][:, :width].astype(np.float32)


def _fit_one(points: np.ndarray, parts: int, rounds: int) -> tuple[np.ndarray, ...]:
  """Log shares, centres and deviations of one mixture; its parts start along the main axis."""
  axis = np.linalg.svd(points - points.mean(0), full_matrices=False)[2][0]
  order = np.argsort(points @ axis)
  pieces = np.array_split(order, parts)
  centres = np.stack([points[p].mean(0) for p in pieces])
  spreads = np.tile(points.std(0) + 0.1, (parts, 1))
  shares = np.full(parts, 1 / parts)
  for _ in range(rounds):
    logs = _log_parts(points, centres, spreads, np.log(shares))
    belongs = np.exp(logs - np.logaddexp.reduce(logs, axis=-1, keepdims=True))
    mass = belongs.sum(0) + 1.0
    shares = mass / mass.sum()
    centres = (belongs.T @ points + points.mean(0)) / mass[:, None]
    second = (belongs.T @ points**2 + (points**2).mean(0)) / mass[:, None]
    # No part gets narrower than a third of what a state spreads in general.
    spreads = np.sqrt(np.maximum(second - centres**2, 0.1))
  return np.log(shares), centres, spreads


def _log_parts(points: np.ndarray, centres: np.ndarray, spreads: np.ndarray, weights: np.ndarray):
  """Log of weight times Gaussian [F, parts], up to a constant, as two matrix products."""
  precise = 1 / spreads**2
  logs = points @ (centres * precise).T - 0.5 * points**2 @ precise.T
  constant = weights - np.log(spreads).sum(-1) - 0.5 * (centres**2 * precise).sum(-1)
  return logs + constant


def _mel_bands() -> Float[np.ndarray, "_ M"]:
  """Triangles [bins, M], evenly spaced in mel from 80 Hz to 7.6 kHz."""
  to_mel = lambda hz: 2595 * np.log10(1 + hz / 700)
  mel = to_mel(np.fft.rfftfreq(_FFT, 1 / RATE))
  edges = np.linspace(to_mel(80.0), to_mel(7600.0), _BANDS + 2)
  step = edges[1] - edges[0]
  return np.maximum(0, 1 - np.abs(mel[:, None] - edges[1:-1]) / step).astype(np.float32)
