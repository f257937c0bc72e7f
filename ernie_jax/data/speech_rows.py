"""Packed rows of speech and words with random access (`drawn_rows.py` says how they are drawn)."""

import dataclasses
import os
from collections.abc import Iterator, Sequence

import numpy as np

from ernie_jax.data import speech_tasks
from ernie_jax.data.drawn_rows import DrawnRows, choose_task
from ernie_jax.data.speech_batches import open_all
from ernie_jax.data.speech_codes import CodedSpeech, Coder, Examples, coded_speech
from ernie_jax.data.speech_files import SpeechFolder
from ernie_jax.data.world.speech_set import SpeechSource
from ernie_jax.errors import UserError
from ernie_jax.sequence import NO_SLOTS, Item, MediaShapes, RowBuilder, SlotsConfig, SoundShape
from ernie_jax.text.tokenizer import Tokenizer

_FIXED = 5  # positions beside frames and words: BOS, BOA, EOA, EOS, and the voice or SEP


@dataclasses.dataclass(frozen=True)
class SpeechTasks:
  """How often each task is drawn, relative to the other.

  Attributes:
    speak: words -> speech, in the voice of another clip of the speaker.
    listen: speech -> words.
  """

  speak: float = 1.0
  listen: float = 1.0

  def __post_init__(self):
    weights = dataclasses.astuple(self)
    if min(weights) < 0 or not sum(weights):
      raise ValueError(f"task weights must not be negative, and not all 0, got {list(weights)}")


@dataclasses.dataclass(frozen=True)
class SpeechDataConfig:
  """Speech in the training rows.

  Attributes:
    worlds, folders: the sources, each with its weight.
    tasks: what is learnt from a clip.
    weight: share of rows of speech, relative to the text sources.
  """

  worlds: tuple[SpeechSource, ...] = ()
  folders: tuple[SpeechFolder, ...] = ()
  tasks: SpeechTasks = SpeechTasks()
  weight: float = 1.0

  def __post_init__(self):
    if not self.weight > 0:
      raise ValueError(f"weight must be positive, got {self.weight}")

  @property
  def sources(self) -> tuple[SpeechSource | SpeechFolder, ...]:
    """All of them; none: rows without speech."""
    return (*self.worlds, *self.folders)


class SpeechRows(DrawnRows):
  """Rows of one split."""

  def __init__(
    self,
    sources: Sequence[CodedSpeech],
    tokenizer: Tokenizer,
    sound: SoundShape,
    config: SpeechDataConfig,
    *,
    length: int,
    seed: int = 0,
    bpe_dropout: float = 0.0,
    shapes: MediaShapes | None = None,
    slots: SlotsConfig = NO_SLOTS,
  ):
    """Checks that every clip and its words, as the tokenizer has them, fit into a row.

    Args:
      sources: one for each of `config.sources`.
      tokenizer: encodes transcripts.
      sound: the shape of codes and voices.
      config: tasks and weights.
      length: positions of a row.
      seed: of every draw.
      bpe_dropout: rate, for words that are spoken. Words that are to be written down are always as the
        tokenizer has them: no sound says how a word was cut.
      shapes, slots: of pictures, where other rows of the mixture have some; here they stay empty.

    Raises:
      UserError: a clip and its words are longer than a row.
    """
    super().__init__(sources, [source.weight for source in config.sources], seed=seed)
    self.tokenizer, self.sound, self.config, self.length = tokenizer, sound, config, length
    self._bpe_dropout, self._shapes, self._slots = bpe_dropout, shapes, slots
    for source in sources:
      self._check_lengths(source)

  def builder(self) -> RowBuilder:
    """See `DrawnRows`."""
    return RowBuilder(self._shapes, self._slots, length=self.length, sound=self.sound)

  def advice(self) -> str:
    """See `DrawnRows`."""
    return f"raise config.data.row_length ({self.length})"

  def _check_lengths(self, speech: CodedSpeech) -> None:
    """Either form of a clip has as many positions; dropped merges may add some, see `DrawnRows`."""
    for clip in speech:
      frames, words = len(clip.codes), len(self.tokenizer.encode(clip.transcript))
      if frames + words + _FIXED > self.length:
        raise UserError(
          f"{clip.name}: a clip of {frames} frames with {words} ids of words is longer than a row:"
          f" {self.advice()}"
        )

  def draw(self, source: int, index: int, rng: np.random.Generator) -> tuple[str, list[Item]]:
    """See `DrawnRows`."""
    speech = self._sources[source]
    example = speech[index]
    weights = dataclasses.asdict(self.config.tasks)
    can = {"speak": True, "listen": bool(example.transcript)}
    if choose_task(weights, can, rng, default="speak") == "listen":
      words = self.tokenizer.encode(example.transcript).tolist()
      return example.name, speech_tasks.listen(example.codes, words)
    options = {}
    if self._bpe_dropout > 0:
      options = {"dropout": self._bpe_dropout, "rng": rng}
    words = self.tokenizer.encode(example.transcript, **options).tolist()
    voice = speech.other_voice(index, rng)
    return example.name, speech_tasks.speak(words, voice, example.codes)


def open_coded(
  config: SpeechDataConfig, split: str, coder: Coder, *, data_dir: str | os.PathLike
) -> list[CodedSpeech]:
  """Opens a split of every source as codes, preparing and encoding it where needed.

  Raises:
    UserError: a source cannot be used or is empty.
  """
  examples = open_all(config.sources, split, data_dir=str(data_dir))
  return [coded_speech(one, coder, data_dir=data_dir) for one in examples]


def speech_texts(sources: Sequence[Examples], *, max_chars: int) -> Iterator[str]:
  """Transcripts to train a text tokenizer on: an equal share of each source."""
  share = -(-max_chars // max(1, len(sources)))
  for source in sources:
    left = share
    for index in range(len(source)):
      text = source[index].transcript
      yield text
      left -= len(text)
      if left <= 0:
        break
