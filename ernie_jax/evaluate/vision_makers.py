"""Who draws and tells what is scored: a saved model at work, or what stands in its place as a ceiling or control.

Letters: P prompts, F pixel frames, S side, n codec frames, R levels.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from ernie_jax.backbone.inputs import Active
from ernie_jax.data import media_tasks
from ernie_jax.data.media_rows import MediaDataConfig
from ernie_jax.evaluate.judged import Maker, Progress
from ernie_jax.evaluate.oracles.pitch import read_pitch
from ernie_jax.evaluate.oracles.score import shuffled
from ernie_jax.evaluate.oracles.video import static_video
from ernie_jax.evaluate.tokenizer import reconstruct
from ernie_jax.evaluate.vision_prompts import HEARD, SPLITS, Prompt, Prompts, Task, asked_of
from ernie_jax.generate.decode import Decoder
from ernie_jax.generate.draw import DrawingConfig, Painter, draw_prompt
from ernie_jax.generate.prompts import prompt_batch, prompt_length
from ernie_jax.generate.sampling import SamplingConfig, text_banned
from ernie_jax.sequence import Item, SpecialToken
from ernie_jax.speech import encode_corpus, sound_shape
from ernie_jax.train.model_io import SavedModel
from ernie_jax.vision.tokenizer import TokenizerConfig

BATCH = 64  # prompts of one call
_SPARE_TOKENS = (
  8  # a text may be longer than the longest right one by this much before it is cut off
)
_EOS, _SEP = int(SpecialToken.EOS), int(SpecialToken.SEP)

Outputs = Sequence[UInt8[np.ndarray, "F S S 3"]] | Sequence[str]


class Truth:
  """The ground truth: the oracle's own ceiling."""

  name, per_second = "truth", {}

  def make(self, task: Task, prompts: Sequence[Prompt], progress: Progress) -> Outputs | None:
    progress(len(prompts))
    if task.draws:
      return [p.media for p in prompts]
    return [told(task, p) for p in prompts]


def told(task: Task, prompt: Prompt) -> str:
  """What is to be told; of a question that is heard, a line of what was heard, and the answer."""
  if task.form == "describe":
    return prompt.caption
  heard = [prompt.question.question] if task == HEARD else []
  return "\n".join([*heard, prompt.question.answer])


class Static:
  """The first frame of the truth, held: what a video without motion earns."""

  name, per_second = "static", {}

  def make(self, task: Task, prompts: Sequence[Prompt], progress: Progress) -> Outputs | None:
    progress(len(prompts))
    return [static_video(p.media) for p in prompts] if task.draws and task.moving else None


class OtherQuestion:
  """A maker that hears the question of another prompt about each picture: what it answers without heeding the words."""

  name, per_second = "other question", {}

  def __init__(self, maker: Maker):
    self._maker = maker

  def make(self, task: Task, prompts: Sequence[Prompt], progress: Progress) -> Outputs | None:
    """See `judged.Maker`."""
    if task != HEARD or len(prompts) < 2:
      progress(len(prompts))
      return None
    others = shuffled(prompts, np.random.default_rng(0))
    asked = [
      dataclasses.replace(prompt, question=other.question, waveform=other.waveform)
      for prompt, other in zip(prompts, others)
    ]
    return self._maker.make(task, asked, progress)


class Rebuilt:
  """The truth through the visual tokenizer: the most that any model of its bits can draw."""

  name, per_second = "rebuilt", {}

  def __init__(self, config: TokenizerConfig, params: Any):
    self._config, self._params = config, params

  def make(self, task: Task, prompts: Sequence[Prompt], progress: Progress) -> Outputs | None:
    progress(len(prompts))
    if not task.draws:
      return None
    return list(reconstruct(self._config, self._params, np.stack([p.media for p in prompts])).after)


class Studio:
  """See `judged.Studio`; all batches of a task have one size and one length."""

  def __init__(
    self, saved: SavedModel, data: MediaDataConfig, prompts: Prompts, drawing: DrawingConfig
  ):
    """Compiles nothing yet. `prompts` are all that will be asked, for their lengths."""
    self.drawing = drawing
    self.batch = min(BATCH, *map(len, prompts.values()))
    self._tokenizer, self._config = saved.tokenizer, saved.vision.config
    self._model, self._prompts, self._options = saved.model, prompts, data.options()
    self._shapes = self._config.shapes(window=data.look_back)
    self._painter = Painter(saved.model, self._config, options=self._options, window=data.look_back)
    self._weights = self._painter.load(saved.params, saved.bias, saved.vision.tokenizer)
    known = saved.model.vocab_size, saved.tokenizer.vocab_size
    self._banned, self._banned_of_heard = text_banned(*known), text_banned(*known, allowed=[_SEP])
    self._lengths: dict[Task, int] = {}
    self._decoders: dict[Task, tuple[Decoder, int]] = {}
    self._codes = _codes(saved, prompts)
    self._sound = sound_shape(saved.model.audio) if self._codes else None
    self.warm: set[Task] = set()

  def run(
    self, task: Task, prompts: Sequence[Prompt], active: Active | None, number: int
  ) -> Outputs:
    """Outputs of one batch; `number` makes its draws differ from those of other batches."""
    padded = [*prompts, *[prompts[-1]] * (self.batch - len(prompts))]
    items = [self._items(task, prompt) for prompt in padded]
    make = self._draw if task.draws else self._tell
    return make(task, items, active, number)[: len(prompts)]

  def _items(self, task: Task, prompt: Prompt) -> list[Item]:
    """The prompt in the form that training gave it."""
    if task.form == "describe":
      return media_tasks.describe(prompt.media, None)
    if task.form == "answer":
      return media_tasks.answer(prompt.media, [(self._encode(prompt.question.question), None)])
    if task.form == "hear":
      return media_tasks.hear(prompt.media, self._codes[prompt.waveform.tobytes()], None)
    given = prompt.media[:1] if task.form == "extend" else None
    frames, side = prompt.media.shape[:2]
    return draw_prompt(self._encode(prompt.caption), frames=frames, side=side, given=given)

  def _encode(self, text: str) -> list[int]:
    return self._tokenizer.encode(text).tolist()

  def _length(self, task: Task) -> int:
    """Positions of the longest prompt of a task."""
    if task not in self._lengths:
      self._lengths[task] = max(
        prompt_length(self._items(task, prompt), self._shapes) for prompt in self._asked(task)
      )
    return self._lengths[task]

  def _asked(self, task: Task) -> list[Prompt]:
    """All prompts of a task."""
    return [prompt for split in SPLITS for prompt in asked_of(split, task, self._prompts)]

  def _draw(self, task: Task, items, active, number: int) -> Outputs:
    how = dataclasses.replace(self.drawing, seed=(self.drawing.seed + number) % 2**32)
    return list(
      self._painter.draw(self._weights, items, how=how, active=active, at_least=self._length(task))
    )

  def _tell(self, task: Task, items, active, number: int) -> Outputs:
    del number  # the likeliest text is taken
    sound = self._sound if task == HEARD else None
    batch = prompt_batch(
      items, self._shapes, self._options, at_least=self._length(task), sound=sound
    )
    decoder, most = self._decoder(task, batch.row.kind.shape[1])
    pieces = decoder.stream_media(
      self._weights,
      batch,
      sampling=SamplingConfig(temperature=0.0),
      max_new_tokens=most,
      stop_ids=[_EOS],
      banned=self._banned_of_heard if task == HEARD else self._banned,
      active=active,
    )
    made: list[list[int]] = [[] for _ in items]
    for piece in pieces:
      for b, ids in enumerate(made):
        ids += piece.row(b)
    decode = lambda ids: self._tokenizer.decode(i for i in ids if i != _EOS)
    return ["\n".join(map(decode, media_tasks.parts(ids))) for ids in made]

  def _decoder(self, task: Task, length: int) -> tuple[Decoder, int]:
    """A cache just large enough, and the tokens that an answer may take."""
    if task not in self._decoders:
      most = max(len(self._encode(told(task, p))) for p in self._asked(task)) + _SPARE_TOKENS
      decoder = Decoder(self._model, cache_length=length + most, media=self._config)
      self._decoders[task] = decoder, most
    return self._decoders[task]


def _codes(saved: SavedModel, prompts: Prompts) -> dict[bytes, Int[np.ndarray, "n R"]]:
  """The codes of every question that is said, by its samples."""
  said = [p.waveform for many in prompts.values() for p in many if p.waveform is not None]
  if not said:
    return {}
  coded = encode_corpus(saved.speech, said, tracker=read_pitch)
  return {waveform.tobytes(): one.codes for waveform, one in zip(said, coded)}
