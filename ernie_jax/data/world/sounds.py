"""The sound of a scene: each object hums with the timbre of its shape, and clicks where it turns back.

A shape's timbre is a set of harmonics; the pitch says the colour and the loudness the size, so that all
objects of a scene can be heard apart. A moving object turns back at the border; each time there is a click,
in the frame in which it is nearest to it. One frame of a video at 12.5 a second is one codec frame.

Letters: S samples, T frames of the video.
"""

import numpy as np
from jaxtyping import Float

from ernie_jax.data.world.scene import COLOURS, DIRECTIONS, Object, Scene, track

RATE = 16_000  # samples a second
FPS = 12.5
# Numbers of the harmonics: those of two pitches are 0.98 semitones apart at least.
HARMONICS = (1, 2, 3, 4, 6)
# Their relative amplitudes for each shape, linearly independent.
TIMBRES = {
  "circle": (1.0, 0.0, 0.0, 0.0, 0.0),
  "square": (1.0, 0.0, 0.8, 0.0, 0.0),
  "triangle": (0.7, 0.8, 0.6, 0.0, 0.0),
  "cross": (0.3, 0.6, 0.0, 1.0, 0.0),
  "ring": (0.3, 0.0, 0.0, 0.5, 1.0),
}
LOUDNESS = {"small": 0.6, "large": 1.0}
_LOWEST, _STEP = 220.0, 2.0  # Hz of the first colour; semitones from one to the next
_HUM, _CLICK = 0.08, 0.5  # amplitudes
_CLICK_SECONDS, _FADE_SECONDS = 0.004, 0.01


def pitch_of(thing: Object) -> float:
  """Hz of the first harmonic of an object's hum."""
  return _LOWEST * 2 ** (_STEP * list(COLOURS).index(thing.colour) / 12)


def turns(scene: Scene) -> tuple[int, ...]:
  """The frames, in order, in which an object is at the border and turns back."""
  found: set[int] = set()
  for thing in scene.objects:
    if thing.speed:
      axis = 0 if DIRECTIONS[thing.motion][0] else 1
      # A longer track, so that a turn in the last frame is one.
      steps = np.sign(np.diff(track(thing, scene.frames + 1)[:, axis]))
      found |= {int(t) + 1 for t in np.flatnonzero(steps[1:] != steps[:-1])}
  return tuple(sorted(t for t in found if t < scene.frames))


def sound(scene: Scene, *, fps: float = FPS) -> Float[np.ndarray, "S"]:
  """The waveform of a scene: float32 at `RATE`, as long as its frames. The same scene sounds the same."""
  count = round(scene.frames / fps * RATE)
  time = np.arange(count) / RATE
  total = sum(hum(thing, time) for thing in scene.objects)
  edge = np.minimum(np.minimum(time, time[::-1]) / _FADE_SECONDS, 1)
  return (total * edge + _clicks(turns(scene), count, fps)).astype(np.float32)


def hum(thing: Object, time: Float[np.ndarray, "S"]) -> Float[np.ndarray, "S"]:
  """What one object sounds like at those seconds."""
  amplitudes = np.array(TIMBRES[thing.shape])
  amplitudes *= _HUM * LOUDNESS[thing.size] / np.sqrt((amplitudes**2).sum())
  angle = 2 * np.pi * pitch_of(thing) * time
  return sum(a * np.sin(k * angle) for k, a in zip(HARMONICS, amplitudes) if a)


def _clicks(frames: tuple[int, ...], count: int, fps: float) -> Float[np.ndarray, "S"]:
  """Short falling noise, the same each time, in the middle of each of the frames."""
  length = round(_CLICK_SECONDS * RATE)
  fall = np.exp(-5 * np.arange(length) / length)
  click = _CLICK * fall * np.random.default_rng(0).uniform(-1, 1, length)
  total = np.zeros(count + length)
  for frame in frames:
    start = round((frame + 0.5) / fps * RATE)
    total[start : start + length] += click
  return total[:count]
