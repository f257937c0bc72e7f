"""The world's utterances as a TFDS data set: waveforms with transcripts, voices, labels and pitch.

Four splits: "train" and "validation" of the same distribution (training speakers and pairs of words),
"unseen_speakers" with other voices, and "unseen_pairs", each of whose utterances has two neighbouring
words that training never has in that order. Example i of a split follows from the seed alone, so builds
are equal everywhere.
"""

import dataclasses
import os
from collections.abc import Iterator

import numpy as np

from ernie_jax.data.audio import to_int16
from ernie_jax.data.builds import Build, build_key, prepare_build
from ernie_jax.data.speech_example import SpeechExample
from ernie_jax.data.speech_records import SpeechBuilder
from ernie_jax.data.world.speech import SpeechConfig, Utterance, sample_utterance
from ernie_jax.data.world.speech_synthesis import FORMAT, synthesise

_FORMAT = 1  # part of the build's name: raise it when the records of equal settings change
SPLITS = ("train", "validation", "unseen_speakers", "unseen_pairs")


@dataclasses.dataclass(frozen=True)
class SpeechSource:
  """Which utterances to draw, and how many. An hour is about 2,000 of them and 115 MB.

  Attributes:
    speech: how utterances are drawn.
    train, validation, unseen_speakers, unseen_pairs: examples of each split.
    seed: of all of it.
    weight: share of the rows of a mixture, relative to the other sources.
  """

  speech: SpeechConfig = SpeechConfig()
  train: int = 10_000
  validation: int = 512
  unseen_speakers: int = 512
  unseen_pairs: int = 512
  seed: int = 0
  weight: float = 1.0

  def __post_init__(self):
    for name in SPLITS:
      if getattr(self, name) < 1:
        raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
    if self.seed < 0:
      raise ValueError(f"seed must not be negative, got {self.seed}")
    if not self.weight > 0:
      raise ValueError(f"weight must be positive, got {self.weight}")

  @property
  def label(self) -> str:
    """What to call the source in messages."""
    return "the world's speech"


class WorldSpeech(SpeechBuilder):
  """Utterances of a procedural language; `prepare` is the way to use it."""

  def splits(self) -> tuple[str, ...]:
    """See `SPLITS`."""
    return SPLITS

  def examples(self, split: str) -> Iterator[SpeechExample]:
    """As many as the source says."""
    source = self.builder_config.source
    for index in range(getattr(source, split)):
      yield draw_example(source, split, index)


def draw_utterance(source: SpeechSource, split: str, index: int) -> Utterance:
  """The state of example `index` of a split, for any index >= 0."""
  rng = np.random.default_rng([source.seed, SPLITS.index(split), index])
  kind = "train" if split in ("train", "validation") else split
  return sample_utterance(rng, source.speech, split=kind)


def draw_example(source: SpeechSource, split: str, index: int) -> SpeechExample:
  """Example `index` of a split, for any index >= 0."""
  utterance = draw_utterance(source, split, index)
  speech = synthesise(utterance)
  return SpeechExample(
    waveform=to_int16(speech.waveform),
    transcript=utterance.text,
    speaker=str(utterance.speaker),
    phones=speech.phones,
    f0=speech.f0,
    utterance=utterance.to_json(),
    name=f"{source.label} {split}[{index}]",
  )


def prepare(source: SpeechSource, data_dir: str | os.PathLike) -> Build:
  """Builds the records of `source` under `data_dir`, unless that very build is there already.

  Raises:
    UserError: `data_dir` cannot be written.
  """
  settings = {**dataclasses.asdict(source), "format": [_FORMAT, FORMAT]}
  del settings["weight"]
  return prepare_build(
    WorldSpeech, source, key=build_key("speech", settings), data_dir=data_dir, label=source.label
  )
