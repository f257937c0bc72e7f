"""Packed rows of pictures, videos, text and what is said about them, with random access (`drawn_rows.py` says how
they are drawn)."""

import dataclasses
import os
from collections.abc import Iterator, Sequence

import numpy as np

from ernie_jax.data import media_tasks
from ernie_jax.data.drawn_rows import DrawnRows, choose_task
from ernie_jax.data.media_example import MediaExample
from ernie_jax.data.media_files import MediaFolder
from ernie_jax.data.media_sources import Examples, MediaSource, open_examples
from ernie_jax.data.media_tfds import MediaTfds
from ernie_jax.data.spoken_scenes import SpokenScene, SpokenScenes
from ernie_jax.data.world.questions import KINDS
from ernie_jax.data.world.scenes import WorldSource
from ernie_jax.data.world.spoken import SpokenSource
from ernie_jax.errors import UserError
from ernie_jax.sequence import (
  Drawn,
  Item,
  LayoutOptions,
  MediaShapes,
  RowBuilder,
  SlotsConfig,
  SoundShape,
)
from ernie_jax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class TaskWeights:
  """How often each task is drawn, relative to the others that an example can serve.

  Attributes:
    draw: caption -> picture or video; what has questions and no caption is not drawn.
    describe: picture or video -> caption.
    answer: a question about a picture or video.
    extend: a picture -> the video that it begins.
    document: text with pictures in it.
  """

  draw: float = 4.0
  describe: float = 3.0
  answer: float = 3.0
  extend: float = 1.0
  document: float = 1.0

  def __post_init__(self):
    weights = dataclasses.astuple(self)
    if min(weights) < 0 or not sum(weights):
      raise ValueError(f"task weights must not be negative, and not all 0, got {list(weights)}")


@dataclasses.dataclass(frozen=True)
class MediaDataConfig:
  """Pictures and videos in the training rows.

  Attributes:
    worlds, folders, tfds: the sources, each with its weight.
    spoken: pictures that are spoken about, beside those sources; they need a model with audio.
    slots: of every row.
    tasks: what is learnt from an example that nobody speaks about.
    weight: share of rows with media, relative to the text sources.
    questions: at most so many about the same picture or video, one after another and each another one.
    kinds: of the questions that are asked in writing; empty: all. What has none of these is asked all it has.
    no_caption: how often a picture or video is drawn without its caption, for guidance.
    drop_frame: how often a latent frame of a drawn video is hidden from later ones (VideoAR).
    window: latent frames that a drawn frame looks back; -1: all of them.
    coordinates, scale_weights: see `LayoutOptions`.
    cache_mb: memory in which examples that were read are kept.
  """

  worlds: tuple[WorldSource, ...] = ()
  folders: tuple[MediaFolder, ...] = ()
  tfds: tuple[MediaTfds, ...] = ()
  spoken: tuple[SpokenSource, ...] = ()
  slots: SlotsConfig = SlotsConfig()
  tasks: TaskWeights = TaskWeights()
  weight: float = 1.0
  questions: int = 1
  kinds: tuple[str, ...] = ()
  no_caption: float = 0.1
  drop_frame: float = 0.1
  window: int = 4
  coordinates: str = "unit"
  scale_weights: str = "inverse_sqrt_area"
  cache_mb: int = 1024

  def __post_init__(self):
    for name in ("no_caption", "drop_frame"):
      if not 0 <= getattr(self, name) <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
    if self.questions < 1:
      raise ValueError(f"questions must be at least 1, got {self.questions}")
    unknown = [kind for kind in self.kinds if kind not in KINDS]
    if unknown and not (self.folders or self.tfds):  # these have kinds of their own
      raise ValueError(f"kinds has {unknown[0]!r}; the world's are {', '.join(KINDS)}")
    if self.window < -1:
      raise ValueError(f"window must be -1 (no limit) or more, got {self.window}")
    if not self.weight > 0:
      raise ValueError(f"weight must be positive, got {self.weight}")
    if self.cache_mb < 0:
      raise ValueError(f"cache_mb must not be negative, got {self.cache_mb}")
    if any(world.judged and not world.captions for world in self.worlds):
      raise ValueError(
        "worlds: one without captions has nothing to be judged by; set its judged to False"
      )
    if self.spoken and not self.sources:
      raise ValueError("spoken stands beside other sources: worlds, folders or tfds")
    for source in (*self.sources, *self.spoken):
      if source.side != self.slots.side:
        raise ValueError(f"slots.side is {self.slots.side}, but {source.label} has {source.side}")
    self.options()

  @property
  def sources(self) -> tuple[MediaSource, ...]:
    """All but `spoken`; none: rows without media."""
    return (*self.worlds, *self.folders, *self.tfds)

  def options(self) -> LayoutOptions:
    """How rows are laid out."""
    return LayoutOptions(coordinates=self.coordinates, scale_weights=self.scale_weights)

  @property
  def look_back(self) -> int | None:
    """`window` as `VisionTarget` takes it."""
    return None if self.window < 0 else self.window


class MediaRows(DrawnRows):
  """Rows of one split."""

  # 1: a heard question was answered without being written, and a given frame could be hidden. 2: a video with
  # questions and no caption was continued.
  form = 3

  def __init__(
    self,
    sources: Sequence[Examples],
    tokenizer: Tokenizer,
    shapes: MediaShapes,
    config: MediaDataConfig,
    *,
    length: int,
    seed: int = 0,
    regularise: bool = True,
    bpe_dropout: float = 0.0,
    sound: SoundShape | None = None,
    spoken: Sequence[SpokenScenes] = (),
  ):
    """Reads nothing yet.

    Args:
      sources: opened, one for each of `config.sources`.
      tokenizer: encodes captions and the like.
      shapes: how media become positions.
      config: slots, tasks and how often what is left out.
      length: positions of a row.
      seed: of every draw.
      regularise: whether captions and frames are left out, as in training.
      bpe_dropout: rate, for what is only given (prompts, questions); see `Tokenizer.encode_words`. Captions,
        answers and documents, which are learnt, are always as the tokenizer has them.
      sound: of what is said here or in other rows of the mixture; None without any.
      spoken: opened, one for each of `config.spoken`.
    """
    weights = [source.weight for source in (*config.sources, *config.spoken)]
    super().__init__([*sources, *spoken], weights, seed=seed)
    self.tokenizer, self.shapes, self.config, self.length = tokenizer, shapes, config, length
    self._regularise, self._bpe_dropout, self._sound = regularise, bpe_dropout, sound
    self._kept: dict[tuple[int, int], MediaExample] = {}
    self._room = config.cache_mb << 20

  def builder(self) -> RowBuilder:
    """See `DrawnRows`."""
    c = self.config
    return RowBuilder(
      self.shapes, c.slots, length=self.length, options=c.options(), sound=self._sound
    )

  def advice(self) -> str:
    """See `DrawnRows`."""
    return (
      f"raise config.data.row_length ({self.length}) or the slots of config.data.media.slots"
      f" ({', '.join(map(str, self.config.slots.counts))})"
    )

  def draw(self, source: int, index: int, rng: np.random.Generator) -> tuple[str, list[Item]]:
    """See `DrawnRows`."""
    example = self._example(source, index)
    if isinstance(example, SpokenScene):
      voice = self._sources[source].voice(index, rng)
      return example.example.name, self._spoken(example, source, voice, rng)
    return example.name, self._items(example, rng)

  def _example(self, source: int, index: int) -> MediaExample | SpokenScene:
    kept = self._kept.get((source, index))
    if kept is None:
      kept = self._sources[source][index]
      size = (kept.example if isinstance(kept, SpokenScene) else kept).media.nbytes
      if size <= self._room:
        self._room -= size
        self._kept[source, index] = kept
    return kept

  def _items(self, example: MediaExample, rng: np.random.Generator) -> list[Item]:
    """One task of those that the example can serve."""
    weights = dataclasses.asdict(self.config.tasks)
    moves = example.frames > 1
    drawn = bool(example.captions) or not example.questions
    can = {
      "draw": drawn,
      "describe": bool(example.captions),
      "answer": bool(example.questions),
      "extend": moves and drawn,
      "document": example.document is not None,
    }
    task = choose_task(weights, can, rng, default="draw")
    return getattr(self, f"_{task}")(example, rng)

  def _draw(self, example: MediaExample, rng: np.random.Generator, *, given: int = 0) -> list[Item]:
    words = self._caption(example, rng)
    if self._regularise and rng.random() < self.config.no_caption:
      words = []
    media = self._frames(example)
    frames = self.shapes.latent_frames(len(media))
    dropped = ()
    if self._regularise and frames > 1:
      hidden = rng.random(frames) < self.config.drop_frame
      hidden[:given] = False  # what is given is what the rest must follow
      dropped = tuple(np.flatnonzero(hidden).tolist())
    return media_tasks.draw(words, Drawn(media, given=given, dropped=dropped))

  def _extend(self, example: MediaExample, rng: np.random.Generator) -> list[Item]:
    return self._draw(example, rng, given=1)

  def _describe(self, example: MediaExample, rng: np.random.Generator) -> list[Item]:
    return media_tasks.describe(self._frames(example), self._caption(example, rng, learnt=True))

  def _answer(self, example: MediaExample, rng: np.random.Generator) -> list[Item]:
    """As many questions as `config.questions` and an empty row allow."""
    asked = [q for q in example.questions if q.kind in self.config.kinds] or example.questions
    order = rng.permutation(len(asked))[: self.config.questions]
    chosen = [asked[i] for i in order]
    turns = [(self._encode(q.question, rng), self._written(q.answer)) for q in chosen]
    items = media_tasks.answer(self._frames(example), turns)
    empty = self.builder()
    while len(turns) > 1 and not empty.fits(items):
      turns.pop()
      items = media_tasks.answer(self._frames(example), turns)
    return items

  def _document(self, example: MediaExample, rng: np.random.Generator) -> list[Item]:
    texts = [self._written(text) for text in example.document.texts]
    return media_tasks.document(texts, example.document.pictures)

  def _spoken(
    self, scene: SpokenScene, source: int, voice: np.ndarray, rng: np.random.Generator
  ) -> list[Item]:
    """A question that is heard, written and answered; or a document, each text said as often as written, one surely."""
    example = scene.example
    settings = self.config.spoken[source - len(self.config.sources)]
    if not scene.texts or rng.random() >= settings.documents:
      turn = self._written(scene.question.question), self._written(scene.question.answer)
      return media_tasks.hear(self._frames(example), scene.asked, turn)
    said = {text for text in scene.texts if rng.integers(2)}
    said.add(list(scene.texts)[int(rng.integers(len(scene.texts)))])
    texts = [
      media_tasks.Said(scene.texts[text], voice) if text in said else self._written(text)
      for text in example.document.texts
    ]
    return media_tasks.document(texts, example.document.pictures)

  def _caption(
    self, example: MediaExample, rng: np.random.Generator, *, learnt: bool = False
  ) -> list[int]:
    if not example.captions:
      return []
    caption = example.captions[int(rng.integers(len(example.captions)))]
    return self._written(caption) if learnt else self._encode(caption, rng)

  def _written(self, text: str) -> list[int]:
    """What is to be told: nothing that is seen or heard says how a word was cut."""
    return self.tokenizer.encode(text).tolist()

  def _encode(self, text: str, rng: np.random.Generator) -> list[int]:
    """What is only given."""
    if self._regularise and self._bpe_dropout > 0:
      return self.tokenizer.encode(text, dropout=self._bpe_dropout, rng=rng).tolist()
    return self._written(text)

  def _frames(self, example: MediaExample) -> np.ndarray:
    """All frames of a picture; of a video, as many as a slot has."""
    wanted = self.config.slots.frames
    if example.frames == 1:
      return example.media
    if example.frames < wanted:
      raise UserError(
        f"{example.name} has {example.frames} frames, fewer than config.data.media.slots.frames ({wanted})"
      )
    return example.media[:wanted]


def open_media(
  config: MediaDataConfig, split: str, *, data_dir: str | os.PathLike
) -> list[Examples]:
  """Opens a split of every source, preparing it where needed.

  Raises:
    UserError: a source cannot be used or is empty.
  """
  opened = [open_examples(source, split, data_dir=data_dir) for source in config.sources]
  for source, examples in zip(config.sources, opened):
    if not len(examples):
      raise UserError(f"{source.label} has no examples in its {split} split")
  return opened


def media_texts(sources: Sequence[Examples], *, max_chars: int) -> Iterator[str]:
  """Captions, questions, answers and documents to train a text tokenizer on: an equal share of each source."""
  share = -(-max_chars // max(1, len(sources)))
  for source in sources:
    left = share
    for index in range(len(source)):
      example = source[index]
      texts = list(example.captions)
      texts += [text for q in example.questions for text in (q.question, q.answer)]
      texts += example.document.texts if example.document is not None else ()
      yield from texts
      left -= sum(map(len, texts))
      if left <= 0:
        break
