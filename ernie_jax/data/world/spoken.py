"""Recordings of what is asked and told about the world's pictures: questions, and sentences of documents.

Of each picture one question is recorded, and where documents are wanted also every text of its document, all
by one speaker of training. A recording follows from the picture's example, its number and the seed, so it is made
when the corpus goes through the codec (`data/speech_codes.py`) and is not kept; only its codes are.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from ernie_jax.data.audio import to_int16
from ernie_jax.data.builds import build_key
from ernie_jax.data.media_records import MediaExamples
from ernie_jax.data.speech_example import SpeechExample
from ernie_jax.data.world.pronounce import PRONUNCIATIONS, SILENT, pronounce
from ernie_jax.data.world.questions import choose_question
from ernie_jax.data.world.scenes import SPLITS, WorldSource
from ernie_jax.data.world.speech import TRAINING_SPEAKERS, SpeechConfig, Utterance, speak
from ernie_jax.data.world.speech_synthesis import FORMAT, synthesise

_FORMAT = 3  # part of the name of the codes: raise it when recordings of equal settings change
# What is drawn for an example. Not 0: a seed that ends with it is that of the example's scene.
_QUESTION, _SPEAKER, _SOUND = 1, 2, 3


@dataclasses.dataclass(frozen=True)
class SpokenSource:
  """Pictures of the world that are spoken about. A thousand questions take half an hour of speech.

  Attributes:
    scenes: the pictures; best those of a source that is trained on anyway, which is built once.
    speech: how they are spoken about.
    recorded: of each split, the first so many are spoken about.
    documents: share of the examples, where a picture has a document, that are documents with some of
      their texts spoken; the others are questions. 0: no document is recorded.
    seed: of questions, speakers and recordings.
    weight: share of the rows of a mixture, relative to the other sources of media.
  """

  scenes: WorldSource = WorldSource()
  speech: SpeechConfig = SpeechConfig()
  recorded: int = 4_000
  documents: float = 0.0
  seed: int = 0
  weight: float = 1.0

  def __post_init__(self):
    if self.scenes.scene.frames > 1:
      raise ValueError("scenes must be pictures: scenes.scene.frames must be 1")
    if self.recorded < 1:
      raise ValueError(f"recorded must be at least 1, got {self.recorded}")
    if not 0 <= self.documents <= 1:
      raise ValueError(f"documents must be in [0, 1], got {self.documents}")
    if self.documents and not self.scenes.documents:
      raise ValueError("documents: scenes.documents is 0, so no picture has one")
    if self.seed < 0:
      raise ValueError(f"seed must not be negative, got {self.seed}")
    if not self.weight > 0:
      raise ValueError(f"weight must be positive, got {self.weight}")

  @property
  def side(self) -> int:
    """Of the pictures, in pixels."""
    return self.scenes.side

  @property
  def label(self) -> str:
    """What to call the source in messages."""
    return "the world's spoken questions"


class Recordings(Sequence[SpeechExample]):
  """The recordings of a split, made when they are read: of each picture its question, then its document's texts.

  A recording has its picture's name, and its transcript is the text as it is written.
  """

  def __init__(self, examples: MediaExamples, source: SpokenSource):
    """Reads nothing yet. `examples` are of a split of `source.scenes`."""
    self._examples, self._source = examples, source
    settings = {
      "speech": dataclasses.asdict(source.speech),
      "recorded": source.recorded,
      "documents": source.documents > 0,
      "seed": source.seed,
      "format": [_FORMAT, FORMAT],
      "words": [PRONUNCIATIONS, sorted(SILENT)],
    }
    self.key = f"{build_key('spoken', {**settings, 'scenes': examples.key})}-{examples.split}"
    self.fingerprint = build_key("spoken", {**settings, "scenes": examples.fingerprint})

  def __len__(self) -> int:
    return len(self._texts)

  def __getitem__(self, index: int) -> SpeechExample:
    number, place, text, name = self._texts[index]
    speaker = int(self._rng(number, _SPEAKER).choice(TRAINING_SPEAKERS))
    said = record(text, self._source.speech, self._rng(number, _SOUND + place), speaker=speaker)
    return SpeechExample(
      waveform=to_int16(synthesise(said).waveform),
      transcript=text,
      speaker=str(speaker),
      utterance=said.to_json(),
      name=name,
    )

  @functools.cached_property
  def _texts(self) -> list[tuple[int, int, str, str]]:
    """Of each recording: the picture's number, the recording's place among its own, the text, the picture's name."""
    texts = []
    for number in range(min(self._source.recorded, len(self._examples))):
      example = self._examples[number]
      said = [choose_question(example.questions, self._rng(number, _QUESTION)).question]
      if self._source.documents and example.document is not None:
        said += [text for text in example.document.texts if text]
      texts += [(number, place, text, example.name) for place, text in enumerate(said)]
    return texts

  def _rng(self, *numbers: int) -> np.random.Generator:
    return np.random.default_rng([self._source.seed, SPLITS.index(self._examples.split), *numbers])


def record(text: str, config: SpeechConfig, rng: np.random.Generator, *, speaker: int) -> Utterance:
  """Draws how voice `speaker` says an English text.

  Raises:
    ValueError: a word without pronunciation, or nothing to say.
  """
  words = pronounce(text)
  if not words:
    raise ValueError(f"nothing of {text!r} is said")
  return speak(rng, config, words, speaker=speaker)
