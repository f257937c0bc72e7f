"""Speech as codes: a corpus goes through the frozen codec once, and what comes out is kept beside its records.

Letters: S samples, n clips, T codec frames, N frames of all clips, R levels, V numbers of a voice.
"""

import dataclasses
import os
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import tqdm
from jaxtyping import Float, Int, Int16

from ernie_jax.data.speech_example import SpeechExample
from ernie_jax.errors import UserError
from ernie_jax.sequence import SoundShape
from ernie_jax.whole_file import written_whole

_CHUNK = 1024  # clips in memory at once: 80 MB of 2.5 s each
_ARRAYS = ("codes", "ends", "voices", "transcripts", "speakers", "names")


class Coded(Protocol):
  """A clip through the codec."""

  codes: Int[np.ndarray, "T R"]
  voice: Float[np.ndarray, "V"]


class Coder(Protocol):
  """A codec as a function of clips; `fingerprint` names its weights, `shape` says what it makes."""

  fingerprint: str
  shape: SoundShape

  def __call__(self, waveforms: Sequence[Int16[np.ndarray, "S"]]) -> list[Coded]: ...


class Examples(Protocol):
  """Random access to speech; `key` names these examples, `fingerprint` their contents."""

  fingerprint: str
  key: str

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> SpeechExample: ...


@dataclasses.dataclass(frozen=True, eq=False)
class SpokenExample:
  """One clip as a model takes it.

  Attributes:
    codes: int32 [T, R].
    voice: float32 [V], how the speaker sounds in this clip.
    transcript, speaker: see `SpeechExample`.
    name: for messages.
  """

  codes: Int[np.ndarray, "T R"]
  voice: Float[np.ndarray, "V"]
  transcript: str
  speaker: str
  name: str


class CodedSpeech(Sequence[SpokenExample]):
  """All clips of a split as codes, in memory: an hour takes less than half a megabyte."""

  def __init__(self, arrays: dict[str, np.ndarray], fingerprint: str):
    """`arrays`: codes [N, R], the `ends` [n] of clips among them, voices [n, V], and three of text [n]."""
    self._arrays, self.fingerprint = arrays, fingerprint
    self._ends = arrays["ends"]
    self._of_speaker: dict[str, list[int]] = {}
    for index, name in enumerate(arrays["speakers"].tolist()):
      self._of_speaker.setdefault(name, []).append(index)

  def __len__(self) -> int:
    return len(self._ends)

  def __getitem__(self, index: int) -> SpokenExample:
    if not 0 <= index < len(self):
      raise IndexError(index)
    a, start = self._arrays, int(self._ends[index - 1]) if index else 0
    return SpokenExample(
      codes=a["codes"][start : self._ends[index]].astype(np.int32),
      voice=a["voices"][index],
      transcript=str(a["transcripts"][index]),
      speaker=str(a["speakers"][index]),
      name=str(a["names"][index]),
    )

  @property
  def frames(self) -> Int[np.ndarray, "n"]:
    """T of each clip."""
    return np.diff(self._ends, prepend=0)

  def other_voice(self, index: int, rng: np.random.Generator) -> Float[np.ndarray, "V"]:
    """The voice of another clip by the speaker of clip `index`; its own where there is no other."""
    speaker = str(self._arrays["speakers"][index])
    others = [i for i in self._of_speaker[speaker] if i != index] if speaker else []
    return self._arrays["voices"][others[int(rng.integers(len(others)))] if others else index]

  def voices(self) -> dict[str, Float[np.ndarray, "V"]]:
    """The mean voice of every speaker who has a name."""
    mean = lambda clips: self._arrays["voices"][clips].mean(axis=0)
    return {name: mean(clips) for name, clips in self._of_speaker.items() if name}


def coded_speech(examples: Examples, coder: Coder, *, data_dir: str | os.PathLike) -> CodedSpeech:
  """The codes of a split, read from `data_dir`, or made and kept there.

  Raises:
    UserError: they cannot be written.
  """
  folder = Path(data_dir).expanduser() / "codes"
  path = folder / f"{examples.key}-{coder.fingerprint}.npz"
  fingerprint = f"{examples.fingerprint}-{coder.fingerprint}"
  try:
    with np.load(path) as kept:
      return CodedSpeech({name: kept[name] for name in _ARRAYS}, fingerprint)
  except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
    pass  # absent or damaged: encode again
  print(f"encoding {len(examples)} clips of {examples.key}", file=sys.stderr, flush=True)
  arrays = _encoded(examples, coder)
  try:
    folder.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as part, open(part, "wb") as f:
      np.savez(f, **arrays)
  except OSError as e:
    raise UserError(f"cannot keep codes under {folder}: {e.strerror or e}") from e
  return CodedSpeech(arrays, fingerprint)


def _encoded(examples: Examples, coder: Coder) -> dict[str, np.ndarray]:
  codes, voices, texts = [], [], []
  count = len(examples)
  with tqdm.tqdm(total=count, desc="encoding", unit="clip", leave=False) as bar:
    for start in range(0, count, _CHUNK):
      chunk = [examples[i] for i in range(start, min(start + _CHUNK, count))]
      for example, coded in zip(chunk, coder([e.waveform for e in chunk])):
        codes.append(coded.codes.astype(np.uint16))
        voices.append(coded.voice)
        texts.append((example.transcript, example.speaker, example.name))
      bar.update(len(chunk))
  transcripts, speakers, names = (np.array(column) for column in zip(*texts))
  return {
    "codes": np.concatenate(codes),
    "ends": np.cumsum([len(c) for c in codes]),
    "voices": np.stack(voices),
    "transcripts": transcripts,
    "speakers": speakers,
    "names": names,
  }
