"""Tracks the objects of a video from frame to frame and judges it by a prompt.

Each frame is read by the picture oracle on its own; objects are then joined to tracks by where they are
and what they look like. Words fix the direction but not the exact speed, so a trajectory may have
any constant speed near the world's.

Letters: T frames, S side.
"""

import collections
import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from scipy.optimize import linear_sum_assignment

from ernie_jax.data.world.scene import DIRECTIONS, RADIUS, SPEED, Described, Object, track
from ernie_jax.evaluate.oracles.image import Found, Reading, read_picture
from ernie_jax.evaluate.oracles.score import (
  WORDS,
  Expected,
  matches,
  pair_up,
  share,
  sign_matches,
)

_REACH = (
  0.12  # of the side that an object may move from one frame to the next: three times the speed
)
_OTHER_COLOUR, _OTHER_SHAPE = 0.08, 0.03  # counted as so much distance
_MOVED = 0.4  # of the way at the world's speed: less is standing still
_STRAIGHT = 0.5  # the way across the direction, at most, as a share of the way along it
_DIRECTION_FRAMES = 9  # the direction is that of the first frames: later ones may have turned back
_SPEEDS = tuple(SPEED * s for s in np.arange(0.8, 1.21, 0.05))
_MAX_DEVIATION = 0.04  # of the side: 1.3 pixels of 32
_MIN_FRAMES = 0.5  # a track shorter than this share of the frames is noise


@dataclasses.dataclass(frozen=True, kw_only=True)
class Track(Described):
  """One object through a video: its words by majority, its place where it starts.

  Attributes:
    centres: x and y in each frame, NaN where it was not seen.
    steady: whether it was seen in its colour in every frame.
  """

  centres: Float[np.ndarray, "T 2"]
  steady: bool


@dataclasses.dataclass(frozen=True)
class VideoScore:
  """A video against a prompt.

  Attributes:
    shape, colour, size, place: the share of the expected objects that have it right; the place is where
      they start.
    objects: the share of them that have all four right.
    objects_and_direction: the share of them that have all four right and move, or stand still, as they
      must.
    count: as many objects in the first frame as expected.
    direction: the share of the objects that must move that move in the right direction; None if none must.
    trajectory: the share of them that do so on a straight line at constant speed, turning back at the
      border.
    stillness: the share of the objects that must stand still that do; None if none must.
    permanence: the share of the expected objects that are there in every frame.
    nothing_else: in no two frames in a row is there anything else, and no other object appears.
    sign: as for a picture, in most frames.
    all_correct: all of it.
  """

  shape: float
  colour: float
  size: float
  place: float
  objects: float
  objects_and_direction: float
  count: bool
  direction: float | None
  trajectory: float | None
  stillness: float | None
  permanence: float
  nothing_else: bool
  sign: bool
  all_correct: bool


def judge_video(video: UInt8[np.ndarray, "T S S 3"], expected: Expected) -> VideoScore:
  """Reads a video and compares it with what a prompt fixes.

  Args:
    video: at least five frames, of a side that is a multiple of 32.
    expected: a scene, or the objects and the sign that a prompt describes; an object whose motion is None
      may do as it likes.
  """
  return score_readings([read_picture(frame) for frame in video], expected)


def score_readings(readings: Sequence[Reading], expected: Expected) -> VideoScore:
  """`judge_video` of frames that were read already."""
  tracks = join(readings)
  objects = expected.objects
  partners = pair_up(objects, tracks)
  moving = [i for i, o in enumerate(objects) if o.motion not in (None, "still")]
  still = [i for i, o in enumerate(objects) if o.motion == "still"]
  shares = {name: share(objects, partners, name) for name in WORDS}
  same = [p is not None and all(matches(o, p, w) for w in WORDS) for o, p in zip(objects, partners)]
  shares["objects"] = float(np.mean(same))
  shares["objects_and_direction"] = float(
    np.mean([s and _directed(o, p) for s, o, p in zip(same, objects, partners)])
  )
  motion = {
    "direction": _part(moving, lambda i: _directed(objects[i], partners[i])),
    "trajectory": _part(moving, lambda i: _on_course(objects[i], partners[i])),
    "stillness": _part(still, lambda i: _directed(objects[i], partners[i])),
  }
  permanence = _part(range(len(objects)), lambda i: partners[i] is not None and partners[i].steady)
  rest = {
    "count": len(readings[0].objects) == len(objects),
    "nothing_else": len(tracks) <= len(objects) and not _foreign_twice(readings),
    "sign": 2 * sum(sign_matches(expected.sign, r.sign) for r in readings) > len(readings),
  }
  parts = [*shares.values(), *motion.values(), permanence]
  right = all(p in (None, 1) for p in parts) and all(rest.values())
  return VideoScore(**shares, **motion, permanence=permanence, **rest, all_correct=right)


def static_video(video: UInt8[np.ndarray, "T S S 3"]) -> UInt8[np.ndarray, "T S S 3"]:
  """The control: the first frame, held. It must score zero on direction and trajectory."""
  return np.repeat(video[:1], len(video), axis=0)


def join(readings: Sequence[Reading]) -> tuple[Track, ...]:
  """Joins what was read in each frame to tracks; those seen in less than half of the frames are left out."""
  paths: list[dict[int, Found]] = []
  for t, reading in enumerate(readings):
    taken = set()
    if paths and reading.objects:
      costs = np.array([[_cost(path, t, found) for found in reading.objects] for path in paths])
      for i, j in zip(*linear_sum_assignment(costs)):
        if costs[i, j] < 1:
          paths[i][t] = reading.objects[j]
          taken.add(j)
    paths += [{t: found} for j, found in enumerate(reading.objects) if j not in taken]
  least = _MIN_FRAMES * len(readings)
  return tuple(_track(path, len(readings)) for path in paths if len(path) >= least)


def motion_of(centres: Float[np.ndarray, "T 2"]) -> str | None:
  """The direction that a track starts in, "still", or None if it is neither straight nor still."""
  first = centres[:_DIRECTION_FRAMES]
  times = np.flatnonzero(np.isfinite(first[:, 0]))
  if len(times) < 2:
    return None
  way = first[times[-1]] - first[times[0]]
  threshold = _MOVED * SPEED * (times[-1] - times[0])
  along, across = np.abs(way).max(), np.abs(way).min()
  if along < threshold:
    return "still"
  if across > _STRAIGHT * along:
    return None
  return max(DIRECTIONS, key=lambda name: way @ np.array(DIRECTIONS[name]))


def _cost(path: dict[int, Found], t: int, found: Found) -> float:
  """How unlikely it is that a path goes on at `found`; 1 where it cannot."""
  last = max(path)
  before = path[last]
  distance = np.hypot(found.x - before.x, found.y - before.y)
  if distance > _REACH * (t - last):
    return 1.0
  other = _OTHER_COLOUR * (found.colour != before.colour) + _OTHER_SHAPE * (
    found.shape != before.shape
  )
  return float(distance + other)


def _track(path: dict[int, Found], frames: int) -> Track:
  centres = np.full((frames, 2), np.nan)
  for t, found in path.items():
    centres[t] = found.x, found.y
  words = {
    name: collections.Counter(getattr(f, name) for f in path.values()).most_common(1)[0][0]
    for name in ("shape", "colour", "size")
  }
  return Track(
    **words,
    place=path[min(path)].place,
    motion=motion_of(centres),
    centres=centres,
    steady=len(path) == frames and len({f.colour for f in path.values()}) == 1,
  )


def _directed(expected: Described, found: Track | None) -> bool:
  return found is not None and matches(expected, found, "motion")


def _on_course(expected: Described, found: Track | None) -> bool:
  """Whether a track keeps to the course that the words fix, at one of the speeds."""
  if not _directed(expected, found):
    return False
  times = np.flatnonzero(np.isfinite(found.centres[:, 0]))
  seen = found.centres[times]
  low, high = RADIUS[found.size], 1 - RADIUS[found.size]
  x, y = np.clip(seen[0], low, high)
  for speed in _SPEEDS:
    course = Object(
      motion=expected.motion, size=found.size, x=float(x), y=float(y), speed=speed, rgb=()
    )
    planned = track(course, len(found.centres))[times - times[0]]
    if np.hypot(*(planned - seen).T).max() <= _MAX_DEVIATION:
      return True
  return False


def _part(indices: Sequence[int], right) -> float | None:
  """The share for which `right` holds, None of nothing."""
  return float(np.mean([right(i) for i in indices])) if len(indices) else None


def _foreign_twice(readings: Sequence[Reading]) -> bool:
  foreign = [r.foreign > 0 for r in readings]
  return any(a and b for a, b in itertools.pairwise(foreign))
