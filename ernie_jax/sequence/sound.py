"""Rows with sound: clips as codes of a codec, and vectors that say how a speaker sounds.

A codec's frames are few and their codes small, so a row has no slots for sound: what stands at a position
is kept for that position. A position holds the codes that it *predicts* (BOA those of the first frame, the
last frame the end class on every level); its input is what the position before it predicts.

Letters: L positions, n frames of a clip, R levels, V codes of a level, S numbers of a voice. NumPy only.
"""

import dataclasses
from collections.abc import Sequence

import flax.struct
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ernie_jax.sequence.row import Kind, Row
from ernie_jax.sequence.special import SpecialToken


@dataclasses.dataclass(frozen=True)
class SoundShape:
  """What a row's builder must know of the codec.

  Attributes:
    levels, codes: R and V; class V is the end.
    voice: S.
  """

  levels: int
  codes: int
  voice: int


@flax.struct.dataclass
class Sound:
  """What the positions of a row, or of a batch of rows, predict and are told about sound.

  Attributes:
    codes: int32 [*B, L, R], the codes that a position predicts, V at the end of a clip; 0 elsewhere.
    voice: float32 [*B, L, S], at positions of kind VOICE; 0 elsewhere.
  """

  codes: Int[Array, "*B L R"]
  voice: Float[Array, "*B L S"]


@dataclasses.dataclass(frozen=True, eq=False)
class Clip:
  """A clip of the example; an `Audio` part.

  Attributes:
    codes: int [n, R].
    learn: whether it is to be spoken; False for one that is listened to.
  """

  codes: Int[np.ndarray, "n R"]
  learn: bool = True


@dataclasses.dataclass(frozen=True, eq=False)
class Speaker:
  """How the clip after it shall sound; a `Voice` part."""

  voice: Float[np.ndarray, "S"]


def predicts_audio(row: Row) -> Bool[Array, "*B L"]:
  """Positions that predict a frame or the end of a clip, in NumPy or in JAX."""
  return (row.kind == Kind.AUDIO) | ((row.kind == Kind.TEXT) & (row.token == int(SpecialToken.BOA)))


def silence(length: int, shape: SoundShape) -> Sound:
  """Of positions without any sound."""
  return Sound(
    codes=np.zeros((length, shape.levels), np.int32),
    voice=np.zeros((length, shape.voice), np.float32),
  )


def sound_of(
  row: Row, clips: Sequence[Clip], speakers: Sequence[Speaker], shape: SoundShape
) -> Sound:
  """What the positions of one laid-out example hold.

  Args:
    row: of the example.
    clips, speakers: of the example, in its order; all of `row`.
    shape: of the codec.

  Raises:
    ValueError: codes or a voice of another shape.
  """
  sound = silence(row.length, shape)
  end = np.full((1, shape.levels), shape.codes)
  for clip in clips:
    known = clip.codes.ndim == 2 and clip.codes.shape[1] == shape.levels
    if not known or clip.codes.min() < 0 or clip.codes.max() >= shape.codes:
      raise ValueError(
        f"codes must be [n, {shape.levels}] below {shape.codes}, got {clip.codes.shape}"
      )
  for speaker in speakers:
    if speaker.voice.shape != (shape.voice,):
      raise ValueError(f"a voice must be [{shape.voice}], got {speaker.voice.shape}")
  if clips:
    sound.codes[predicts_audio(row)] = np.concatenate([x for c in clips for x in (c.codes, end)])
  if speakers:
    sound.voice[row.kind == Kind.VOICE] = np.stack([s.voice for s in speakers])
  return sound
