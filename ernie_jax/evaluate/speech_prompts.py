"""What a model with audio is asked when its listening and speaking are scored: utterances of the world.

Utterances of "validation" are by voices and of pairs of words that training had, those of the other splits
have other voices, or a pair of words that training never had. Example i of a split follows from the config,
so every model is asked the same.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int16

from ernie_jax.data.audio import to_int16
from ernie_jax.data.speech_rows import SpeechDataConfig
from ernie_jax.data.world.speech import Utterance, sample_utterance
from ernie_jax.data.world.speech_set import SpeechSource, draw_utterance
from ernie_jax.data.world.speech_synthesis import synthesise

SPLITS = {
  "validation": "seen voices and pairs of words",
  "unseen_speakers": "unseen voices",
  "unseen_pairs": "never-trained pairs of words",
}


@dataclasses.dataclass(frozen=True)
class Task:
  """One ability.

  Attributes:
    name: for people.
    form: as the task of training is called.
  """

  name: str
  form: str

  @property
  def speaks(self) -> bool:
    """Whether its outputs are sound; else they are text."""
    return self.form == "speak"


TASKS = (Task("speech -> text", "listen"), Task("text -> speech", "speak"))


@dataclasses.dataclass(frozen=True, eq=False)
class Prompt:
  """An utterance, and another one that shows its voice.

  Attributes:
    utterance: its state.
    waveform: how it sounds, 16 bits at 16 kHz: the ground truth.
    reference: other words in the same voice, after which the model is to speak.
  """

  utterance: Utterance
  waveform: Int16[np.ndarray, "S"] = dataclasses.field(repr=False)
  reference: Int16[np.ndarray, "S"] = dataclasses.field(repr=False)

  @property
  def text(self) -> str:
    """The transcript."""
    return self.utterance.text


Prompts = Mapping[str, Sequence[Prompt]]  # by split


def make_prompts(config: SpeechDataConfig, count: int) -> Prompts:
  """`count` prompts of each split, of all worlds in turn."""
  worlds = config.worlds
  return {
    split: [_prompt(worlds[i % len(worlds)], split, i // len(worlds)) for i in range(count)]
    for split in SPLITS
  }


def _prompt(source: SpeechSource, split: str, index: int) -> Prompt:
  utterance = draw_utterance(source, split, index)
  draw = np.random.default_rng([list(SPLITS).index(split), source.seed, index])
  other = sample_utterance(draw, source.speech)
  other = dataclasses.replace(other, speaker=utterance.speaker)
  wave = lambda said: to_int16(synthesise(said).waveform)
  return Prompt(utterance=utterance, waveform=wave(utterance), reference=wave(other))
