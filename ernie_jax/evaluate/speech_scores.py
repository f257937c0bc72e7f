"""What was heard and said against what was asked, judged by a program that reads waveforms, and floors.

Speech is judged by its words, by its phones (read without a vocabulary, the stricter measure), and by the
voice it was to have. A prompt names words and a voice, but no melody and no rate. So the pitch that speech
must meet is the mean of the voice, `data.world.speech.speaker(i).f0`, not a track; recordings themselves lie
up to half a semitone away from it, which the ceiling shows. Likewise the length that it must meet is what
the words usually last. Voices are looked for among all of the world, so that the figures of few and of many
prompts mean the same.

Letters: S samples, H and W of a spectrogram.
"""

import hashlib
from collections.abc import Sequence

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8

from ernie_jax.data.audio import to_float
from ernie_jax.data.world.speech import TRAINING_SPEAKERS, UNSEEN_SPEAKERS
from ernie_jax.evaluate.codec import spectrogram
from ernie_jax.evaluate.judged import Scores
from ernie_jax.evaluate.oracles.score import shuffled
from ernie_jax.evaluate.oracles.speech import Reading, SpeechOracle
from ernie_jax.evaluate.oracles.speech_score import (
  Said,
  SpeechScore,
  edits,
  judge_speech,
  summarise,
)
from ernie_jax.evaluate.sheet import Shown
from ernie_jax.evaluate.speech_prompts import SPLITS, Prompt, Task

SHOWN = 8  # of each task and split on the sheet: two lines of it
VOICES = (*TRAINING_SPEAKERS, *UNSEEN_SPEAKERS)
_SECONDS = 2.2  # of each spectrogram: four stand side by side

Outputs = Sequence[Float[np.ndarray, "S"]] | Sequence[str]


class Ear:
  """The oracle, which reads no waveform twice: floors and ceilings need readings that were made already."""

  def __init__(self, oracle: SpeechOracle):
    self.oracle = oracle
    self._known: dict[bytes, Reading] = {}

  def read(self, waveforms: Sequence[Float[np.ndarray, "S"]]) -> list[Reading]:
    """The reading of every waveform."""
    names = [hashlib.sha1(np.ascontiguousarray(w)).digest() for w in waveforms]
    new = {name: w for name, w in zip(names, waveforms) if name not in self._known}
    self._known |= zip(new, self.oracle.read(list(new.values())))
    return [self._known[name] for name in names]


class SpeechJudge:
  """See `judged.Judge`."""

  def __init__(self, ear: Ear):
    self._ear = ear

  def score(self, task: Task, outputs: Outputs, prompts: Sequence[Prompt]) -> Scores:
    """Errors: of words, and of letters in text; see `oracles.speech_score.summarise` for speech."""
    if task.speaks:
      return summarise(self._spoken(outputs, prompts))
    pairs = [(text.lower(), prompt.text) for text, prompt in zip(outputs, prompts)]
    words = [edits(found.split(), wanted.split()) for found, wanted in pairs]
    letters = [edits("".join(found.split()), "".join(wanted.split())) for found, wanted in pairs]
    return {
      "word_error": sum(words) / sum(len(wanted.split()) for _, wanted in pairs),
      "letter_error": sum(letters) / sum(len("".join(wanted.split())) for _, wanted in pairs),
    }

  def floor(self, task: Task, outputs: Outputs, prompts: Sequence[Prompt]) -> Scores:
    """Each output judged by another prompt, its words and its voice; nothing for one prompt alone."""
    if len(prompts) < 2:
      return {}
    return self.score(task, outputs, shuffled(prompts, np.random.default_rng(0)))

  def show(
    self, split: str, task: Task, outputs: Outputs, prompts: Sequence[Prompt]
  ) -> list[Shown]:
    """The first outputs, each with what was said and what was heard; right ones have all words right."""
    outputs, prompts = outputs[:SHOWN], prompts[:SHOWN]
    sounds, heard, how = [to_float(p.waveform) for p in prompts], outputs, "written"
    if task.speaks:
      sounds, heard = outputs, [reading.text for reading in self._ear.read(outputs)]
      how = "heard"
    return [
      Shown(
        section=f"{task.name}, {SPLITS[split]}",
        media=picture(sound),
        words=f"said: {prompt.text} (voice {prompt.utterance.speaker})\n{how}: {text}",
        right=text.lower().split() == prompt.text.split(),
      )
      for sound, text, prompt in zip(sounds, heard, prompts)
    ]

  def _spoken(self, outputs: Sequence[np.ndarray], prompts: Sequence[Prompt]) -> list[SpeechScore]:
    wanted = [Said(words=p.utterance.words, speaker=p.utterance.speaker) for p in prompts]
    return [
      judge_speech(self._ear.oracle, reading, said, candidates=VOICES)
      for reading, said in zip(self._ear.read(outputs), wanted)
    ]


def picture(waveform: Float[np.ndarray, "S"]) -> UInt8[np.ndarray, "1 H W 3"]:
  """The spectrogram of its first seconds in colours."""
  colours = matplotlib.colormaps["magma"](spectrogram(waveform, seconds=_SECONDS))
  return (255 * colours[None, ..., :3]).astype(np.uint8)
