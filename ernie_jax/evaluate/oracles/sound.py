"""Hears which objects hum in a scene's sound and when something turns back, and judges it by a scene.

The hums of all shapes and colours are fitted together to short-time spectra by least squares with
weights of one sign, which say the sizes; clicks are where what is too high for any hum comes in suddenly.

Letters: S samples, T frames of the video, K pairs of shape and colour.
"""

import dataclasses
import itertools

import numpy as np
from jaxtyping import Float
from scipy.optimize import nnls

from ernie_jax.data.world.scene import COLOURS, SHAPES, SIZES, Object, Scene
from ernie_jax.data.world.sounds import FPS, LOUDNESS, RATE, hum, turns

Kind = tuple[str, str, str]  # shape, colour, size
_PAIRS = tuple(itertools.product(SHAPES, COLOURS))
_MOST = 3  # objects of one shape and colour
_WINDOW = 4096
_SHARP_HZ = 4_000.0  # above the highest harmonic of any hum
_SHARP_WINDOW = 128
_SHARP = 0.01  # amplitude


@dataclasses.dataclass(frozen=True)
class SoundScore:
  """A sound against a scene.

  Attributes:
    shapes: whether just the scene's shapes hum, each as often as it must.
    objects: the same of shape, colour and size together.
    clicks: F1 of the turns, heard within a frame of where they are; 1 where there are none and none is
      heard.
  """

  shapes: bool
  objects: bool
  clicks: float


def hear_kinds(waveform: Float[np.ndarray, "S"]) -> tuple[Kind, ...]:
  """Shape, colour and size of what hums, in a fixed order, each as often as its level says.

  Below a quarter of a second hums cannot be told apart.
  """
  padded = np.pad(waveform, (0, max(0, _WINDOW - len(waveform))))
  windows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[:: _WINDOW // 4]
  # The middle of the windows' energies: a click is in few of them.
  heard = np.sqrt(np.median(_energy(windows), axis=0))
  levels, _ = nnls(_dictionary(), heard)
  return tuple((*p, size) for p, level in zip(_PAIRS, levels) for size in _sizes(level))


def hear_clicks(waveform: Float[np.ndarray, "S"], *, fps: float = FPS) -> tuple[int, ...]:
  """The frames in which something clicks."""
  if len(waveform) < _SHARP_WINDOW:
    return ()
  hop = _SHARP_WINDOW // 4
  pieces = np.lib.stride_tricks.sliding_window_view(waveform, _SHARP_WINDOW)[::hop]
  spectrum = np.abs(np.fft.rfft(pieces * np.hanning(_SHARP_WINDOW)))
  sharp = np.fft.rfftfreq(_SHARP_WINDOW, 1 / RATE) > _SHARP_HZ
  loud = np.sqrt((spectrum[:, sharp] ** 2).mean(-1) / _SHARP_WINDOW) > _SHARP
  starts = np.flatnonzero(loud & ~np.concatenate([[False], loud[:-1]]))
  return tuple(sorted({int((i * hop + _SHARP_WINDOW / 2) / RATE * fps) for i in starts}))


def judge_sound(waveform: Float[np.ndarray, "S"], scene: Scene, *, fps: float = FPS) -> SoundScore:
  """Listens to a waveform of 16 kHz and compares it with what a scene must sound like."""
  kinds = sorted(hear_kinds(waveform))
  wanted = sorted((o.shape, o.colour, o.size) for o in scene.objects)
  return SoundScore(
    shapes=sorted(k[0] for k in kinds) == sorted(k[0] for k in wanted),
    objects=kinds == wanted,
    clicks=_f1(hear_clicks(waveform, fps=fps), turns(scene)),
  )


def _sizes(level: float) -> tuple[str, ...]:
  """The sizes of the objects, perhaps none, that are together most nearly that loud."""
  options = [
    sizes
    for count in range(_MOST + 1)
    for sizes in itertools.combinations_with_replacement(SIZES, count)
  ]
  return min(options, key=lambda sizes: abs(level - sum(LOUDNESS[s] for s in sizes)))


def _f1(found: tuple[int, ...], wanted: tuple[int, ...]) -> float:
  """Each turn can be met by one click, in its frame or a neighbouring one."""
  if not found and not wanted:
    return 1.0
  left, met = list(found), 0
  for frame in wanted:
    near = [f for f in left if abs(f - frame) <= 1]
    if near:
      left.remove(near[0])
      met += 1
  return 2 * met / (len(found) + len(wanted))


def _energy(pieces: np.ndarray) -> np.ndarray:
  return np.abs(np.fft.rfft(pieces * np.hanning(_WINDOW))) ** 2


def _dictionary() -> Float[np.ndarray, "n K"]:
  """The spectrum of the hum of each shape and colour, alone and large."""
  time = np.arange(_WINDOW) / RATE
  alone = lambda s, c: Object(shape=s, colour=c, size="large", x=0.5, y=0.5, rgb=(0, 0, 0))
  return np.stack([np.sqrt(_energy(hum(alone(*pair), time))) for pair in _PAIRS], axis=-1)
