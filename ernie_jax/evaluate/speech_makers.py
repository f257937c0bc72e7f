"""Who listens and speaks: a saved model at work, or what stands in its place as a ceiling or control.

Letters: P prompts, S samples, R levels.
"""

import dataclasses
import itertools
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from ernie_jax.audio.codec import whole_frames
from ernie_jax.backbone.inputs import Active
from ernie_jax.data import speech_tasks
from ernie_jax.data.audio import RATE, to_float
from ernie_jax.evaluate.codec import reconstruct
from ernie_jax.evaluate.judged import Progress
from ernie_jax.evaluate.oracles.pitch import read_pitch
from ernie_jax.evaluate.speech_prompts import Prompt, Prompts, Task
from ernie_jax.evaluate.speech_scores import Ear, Outputs
from ernie_jax.generate.decode import Decoder
from ernie_jax.generate.prompts import prompt_batch, prompt_length
from ernie_jax.generate.sampling import SamplingConfig, text_banned
from ernie_jax.generate.speak import SpeakingConfig, Voicebox
from ernie_jax.sequence import Item, SpecialToken
from ernie_jax.speech import Speech, encode_corpus, sound_shape
from ernie_jax.train.model_io import SavedModel

BATCH = 64  # prompts of one call
STREAMS = 4  # prompts that are spoken one by one, for the times
_SPARE_TOKENS = 8  # a transcript may be longer than the longest right one by this much
_LONGER = 2  # speech may take this many times the longest true clip before it is cut off
_EOS = int(SpecialToken.EOS)


class Truth:
  """The recordings, and what the oracle hears in them: the oracle's own ceiling."""

  name, per_second = "truth", {}

  def __init__(self, ear: Ear):
    self._ear = ear

  def make(self, task: Task, prompts: Sequence[Prompt], progress: Progress) -> Outputs:
    """See `judged.Maker`."""
    progress(len(prompts))
    return _said_or_heard(task, [to_float(p.waveform) for p in prompts], self._ear)


class Rebuilt:
  """The recordings through the codec: the most that any model of its codes can say or hear."""

  name, per_second = "rebuilt", {}

  def __init__(self, ear: Ear, speech: Speech):
    self._ear, self._speech = ear, speech
    self._known: dict[Prompt, np.ndarray] = {}

  def make(self, task: Task, prompts: Sequence[Prompt], progress: Progress) -> Outputs:
    """See `judged.Maker`."""
    progress(len(prompts))
    codec = self._speech
    new = [p for p in prompts if p not in self._known]
    done = reconstruct(codec.config, codec.params, codec.vectors, [p.waveform for p in new])
    self._known |= zip(new, done.after)
    return _said_or_heard(task, [self._known[p] for p in prompts], self._ear)


class Reference:
  """The clip that shows the voice, played back: what the right voice earns with the wrong words."""

  name, per_second = "reference", {}

  def make(self, task: Task, prompts: Sequence[Prompt], progress: Progress) -> Outputs | None:
    """See `judged.Maker`."""
    progress(len(prompts))
    return [to_float(p.reference) for p in prompts] if task.speaks else None


@dataclasses.dataclass(frozen=True)
class Streaming:
  """How soon and how fast one clip is spoken: medians over some clips, compilation left out.

  Attributes:
    first_ms: from the request, with the prompt still to be read, to the first sound.
    stall_ms: the longest silence of a player that begins at once and plays what has come; 0: it keeps up.
    real_time_factor: seconds that a second of sound takes.
  """

  first_ms: float
  stall_ms: float
  real_time_factor: float


class Studio:
  """See `judged.Studio`; all batches of a task have one size and one length."""

  def __init__(self, saved: SavedModel, prompts: Prompts, speaking: SpeakingConfig):
    """Encodes all that will be asked. `saved` has speech and a text tokenizer."""
    self.batch = min(BATCH, *map(len, prompts.values()))
    self.warm: set[Task] = set()
    self._speaking, self._tokenizer, self._model = speaking, saved.tokenizer, saved.model
    self._shape = sound_shape(saved.model.audio)
    self._voicebox = Voicebox(saved.model, saved.speech.config)
    self._weights = self._voicebox.load(saved.params, saved.bias, saved.speech)
    self._banned = text_banned(saved.model.vocab_size, saved.tokenizer.vocab_size)
    asked = [prompt for many in prompts.values() for prompt in many]
    clips = [clip for prompt in asked for clip in (prompt.waveform, prompt.reference)]
    coded = encode_corpus(saved.speech, clips, tracker=read_pitch)
    self._forms: dict[str, dict[Prompt, list[Item]]] = {"listen": {}, "speak": {}}
    for prompt, heard, reference in zip(asked, coded[::2], coded[1::2]):
      words = self._encode(prompt.text)
      self._forms["listen"][prompt] = speech_tasks.listen(heard.codes, None)
      self._forms["speak"][prompt] = speech_tasks.speak(words, reference.voice, None)
    longest = lambda form: max(prompt_length(items, None) for items in self._forms[form].values())
    self._lengths = {form: longest(form) for form in self._forms}
    self._tokens = max(len(self._encode(prompt.text)) for prompt in asked) + _SPARE_TOKENS
    self._frames = self._most_frames(saved, asked)
    self._decoder: Decoder | None = None

  def run(
    self, task: Task, prompts: Sequence[Prompt], active: Active | None, number: int
  ) -> Outputs:
    """See `judged.Studio`."""
    padded = [*prompts, *[prompts[-1]] * (self.batch - len(prompts))]
    items = [self._forms[task.form][prompt] for prompt in padded]
    make = self._speak if task.speaks else self._listen
    return make(items, active, number)[: len(prompts)]

  def stream(self, prompts: Sequence[Prompt], active: Active | None) -> Streaming:
    """Speaks some prompts one at a time, and an extra one first, which compiles."""
    chosen = prompts[:STREAMS]
    times = [self._timed(prompt, active) for prompt in (chosen[0], *chosen)][1:]
    return Streaming(*np.median([dataclasses.astuple(one) for one in times], axis=0).tolist())

  def _timed(self, prompt: Prompt, active: Active | None) -> Streaming:
    began = time.perf_counter()
    came, sound = [], []  # seconds
    for piece in self._sounds([self._forms["speak"][prompt]], active, self._speaking):
      came.append(time.perf_counter() - began)
      sound.append(int(piece.lengths[0]) / RATE)
    played = itertools.accumulate(sound[:-1])  # before each piece but the first
    stalls = [at - came[0] - until for at, until in zip(came[1:], played)]
    return Streaming(
      first_ms=1000 * came[0],
      stall_ms=1000 * max([0.0, *stalls]),
      real_time_factor=came[-1] / sum(sound),
    )

  def _sounds(self, items: Sequence[Sequence[Item]], active, how: SpeakingConfig):
    return self._voicebox.sounds(
      self._weights,
      items,
      how=how,
      max_frames=self._frames,
      active=active,
      at_least=self._lengths["speak"],
    )

  def _speak(self, items, active, number: int) -> list[np.ndarray]:
    how = self._speaking
    how = dataclasses.replace(how, seed=(how.seed + number) % 2**32)
    pieces = list(self._sounds(items, active, how))
    lengths = np.sum([piece.lengths for piece in pieces], axis=0)
    whole = np.clip(np.concatenate([piece.waveform for piece in pieces], axis=1), -1, 1)
    return [one[:length] for one, length in zip(whole, lengths)]

  def _listen(self, items, active, number: int) -> list[str]:
    del number  # the likeliest text is taken
    at_least = self._lengths["listen"]
    batch = prompt_batch(items, None, None, at_least=at_least, sound=self._shape)
    if self._decoder is None:  # with a cache just large enough
      length = batch.row.kind.shape[1] + self._tokens
      self._decoder = Decoder(self._model, cache_length=length)
    pieces = self._decoder.stream_media(
      self._weights,
      batch,
      sampling=SamplingConfig(temperature=0.0),
      max_new_tokens=self._tokens,
      stop_ids=[_EOS],
      banned=self._banned,
      active=active,
    )
    made: list[list[int]] = [[] for _ in items]
    for piece in pieces:
      for b, ids in enumerate(made):
        ids += piece.row(b)
    return [self._tokenizer.decode(i for i in ids if i != _EOS) for ids in made]

  def _most_frames(self, saved: SavedModel, asked: Sequence[Prompt]) -> int:
    """Of any clip: what a row holds after the longest prompt, and no more than true speech could take."""
    row = saved.config["data"]["row_length"]
    room = row - self._lengths["speak"] - 3  # BOA, EOA and EOS
    return max(1, min(room, _LONGER * max(whole_frames(len(p.waveform)) for p in asked)))

  def _encode(self, text: str) -> list[int]:
    return self._tokenizer.encode(text).tolist()


def _said_or_heard(task: Task, waveforms: Sequence[Float[np.ndarray, "S"]], ear: Ear) -> Any:
  return waveforms if task.speaks else [reading.text for reading in ear.read(waveforms)]
