"""From sound to what the unified model reads and predicts: codes of the frozen codec, and voices.

Nothing of this runs in a training step: a corpus is encoded once (`encode_corpus`), and rows carry codes.

Letters: S samples, T codec frames, R levels, V codes, F frames of 8 ms, M mel bands.
"""

import concurrent.futures
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Int16

from ernie_jax.audio import analysis
from ernie_jax.audio.codec import STRIDE, Codec, CodecConfig, encode_codes, whole_frames
from ernie_jax.backbone.config import AudioConfig
from ernie_jax.sequence.sound import SoundShape

CEPSTRA = 20
VOICE = 2 + CEPSTRA  # numbers of a voice: the middle and the spread of the pitch, then cepstra
_BATCH_FRAMES = 2048  # codec frames that are encoded at once
_LENGTH_STEP = 8  # clips are filled up to multiples of so many frames: fewer compilations
_MIDDLE_HZ = 150.0
_LOUD = 0.5  # of the standard deviation below the mean level: frames that count for the cepstra
_RANGE = 1.5  # below a frame's loudest band, 26 dB: what is softer says more of the loudness than of the voice
_FORMAT = (
  2  # part of a coder's fingerprint: raise it when the codes or voices of equal clips change
)

Tracker = Callable[[Float[np.ndarray, "S"]], Float[np.ndarray, "F"]]


@dataclasses.dataclass(frozen=True, eq=False)
class Speech:
  """A trained codec.

  Attributes:
    config: its shape.
    params, vectors: as `Codec` and `quantize` take them.
  """

  config: CodecConfig
  params: Any
  vectors: Float[np.ndarray, "R V D"]

  @property
  def frozen(self) -> dict[str, Any]:
    """What a checkpoint keeps of it."""
    return {"params": self.params, "vectors": self.vectors}

  @property
  def fingerprint(self) -> str:
    """16 hexadecimal digits that name these very weights, for cache keys."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(self.frozen):
      digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]

  def check(self, model: AudioConfig | None) -> None:
    """The model must be one of this code.

    Raises:
      ValueError: it is not.
    """
    code = self.config.quantizer
    if model is None or (model.levels, model.codes, model.voice) != (
      code.levels,
      code.codes,
      VOICE,
    ):
      raise ValueError(
        f"the codec makes {code.levels} levels of {code.codes} codes, and a voice has {VOICE} numbers;"
        f" the model has {model}"
      )


@dataclasses.dataclass(frozen=True, eq=False)
class Encoded:
  """A clip as the model takes it.

  Attributes:
    codes: int32 [T, R].
    voice: float32 [S], how its speaker sounds in it.
  """

  codes: Int[np.ndarray, "T R"]
  voice: Float[np.ndarray, "S"]


class CorpusCoder:
  """`encode_corpus` as a function of clips alone.

  Attributes:
    fingerprint: of the codec's weights.
    shape: see `SoundShape`.
  """

  def __init__(self, speech: Speech, *, tracker: Tracker):
    self._speech, self._tracker = speech, tracker
    code = speech.config.quantizer
    self.fingerprint = f"{speech.fingerprint}-{_FORMAT}"
    self.shape = SoundShape(levels=code.levels, codes=code.codes, voice=VOICE)

  def __call__(self, waveforms: Sequence[Int16[np.ndarray, "S"]]) -> list[Encoded]:
    return encode_corpus(self._speech, waveforms, tracker=self._tracker)


def sound_shape(model: AudioConfig) -> SoundShape:
  """What a row's builder must know."""
  return SoundShape(levels=model.levels, codes=model.codes, voice=model.voice)


def encode_corpus(
  speech: Speech, waveforms: Sequence[Int16[np.ndarray, "S"]], *, tracker: Tracker
) -> list[Encoded]:
  """Codes and voices of clips of any length, in large batches of clips of about one length.

  Args:
    speech: the codec. It never looks ahead, so filling a clip up changes none of its codes.
    waveforms: at 16 kHz.
    tracker: finds pitch in Hz every 8 ms, 0 without voice.
  """
  if not waveforms:
    return []
  frames = np.array([whole_frames(len(w)) for w in waveforms])
  filled = -(-frames // _LENGTH_STEP) * _LENGTH_STEP
  found: list[Any] = [None] * len(waveforms)
  run = _encoder(speech.config)
  # Pitch takes longest, mostly in NumPy's FFT, which threads share the cores for.
  with concurrent.futures.ThreadPoolExecutor() as pool:
    for length in np.unique(filled).tolist():
      own = np.flatnonzero(filled == length)
      rows = max(1, _BATCH_FRAMES // length)
      for start in range(0, len(own), rows):
        chosen = own[start : start + rows]
        batch = np.zeros((rows, length * STRIDE), np.float32)
        for row, i in zip(batch, chosen):
          row[: len(waveforms[i])] = waveforms[i].astype(np.float32) / 32768
        coded = run(speech.params, speech.vectors, batch)
        clips = [row[: len(waveforms[i])] for row, i in zip(batch, chosen)]
        tracks = list(pool.map(tracker, clips))
        for i, clip, track, codes, mels in zip(chosen, clips, tracks, *jax.device_get(coded)):
          voice = voice_of(mels[: len(clip) // analysis.HOP], track)
          found[i] = Encoded(codes=codes[: frames[i]].astype(np.int32), voice=voice)
  return found


def voice_of(mels: Float[np.ndarray, "F M"], f0: Float[np.ndarray, "F"]) -> Float[np.ndarray, "S"]:
  """How a speaker sounds in a clip: middle and spread of log pitch, and mean cepstra of its loud frames.

  Numbers of about unit size: octaves from 150 Hz and their standard deviation, then cepstra without
  the first, which is loudness; later ones are smaller, and so raised by the root of their number. A
  clip without voice counts as 150 Hz.

  Args:
    mels: log mel bands as `audio.analysis` scales them.
    f0: pitch in Hz, 0 without voice.
  """
  pitch = np.log2(f0[f0 > 0] / _MIDDLE_HZ)
  middle, spread = (np.median(pitch), pitch.std()) if len(pitch) else (0.0, 0.0)
  cepstra = np.zeros(CEPSTRA)
  if len(mels):
    level = mels.mean(axis=1)
    loud = mels[level >= level.mean() - _LOUD * level.std()]
    bands = mels.shape[1]
    loud = np.maximum(loud, loud.max(axis=1, keepdims=True) - _RANGE)
    number = np.arange(1, CEPSTRA + 1)
    angles = np.pi * np.outer(number, np.arange(bands) + 0.5) / bands
    cepstra = np.cos(angles) @ loud.mean(axis=0) * np.sqrt(number) * (8 / bands)
  return np.concatenate([[2 * middle, 4 * spread], cepstra]).astype(np.float32)


@functools.cache
def _encoder(config: CodecConfig):
  """The jitted (params, vectors, [B, S]) -> (codes [B, T, R], mel bands [B, F, M])."""

  @jax.jit
  def run(params, vectors, batch):
    codes = encode_codes(Codec(config), params, vectors, batch)
    padded = jnp.pad(batch, ((0, 0), (analysis.LONGEST - analysis.HOP, 0)))
    return codes, analysis.features(padded)[..., : analysis.MELS]

  return run
