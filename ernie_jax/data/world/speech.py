"""The state of a world utterance: words, a speaker, how long each phone lasts; and what training never hears.

The language is small and regular so that a program can judge what a model says: words of two or three
syllables, each a consonant and a vowel, written as they are spoken, one letter a phone. `speech_synthesis`
turns an utterance into a waveform with labels.

What never occurs in training: the speakers of `UNSEEN_SPEAKERS`, and 12 % of the pairs of neighbouring
words (`is_held_out`).
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Literal

import numpy as np

from ernie_jax import config as config_lib

RATE = 16_000  # samples a second
HOP = 128  # samples of a frame: all that is known of an utterance is known each 8 ms
FRAMES_PER_CODE = 10  # frames of a codec frame of 80 ms, 12.5 a second

CONSONANTS = ("b", "d", "k", "l", "m", "n", "s", "f")
VOWELS = ("a", "e", "i", "o", "u")
SILENCE = " "
PHONES = (SILENCE, *CONSONANTS, *VOWELS)  # a frame's label is an index into it

# Drawn once. Two words differ in two phones at least, and so does a short word from the start and
# from the end of a long one: how words join never makes another word.
# fmt: off
VOCABULARY = (
  "mamusa", "basika", "sebeba", "bubi", "kaduku", "dibese", "malusu", "mafifu", "kodolo", "fefi",
  "bame", "mono", "sosu", "laba", "fafoku", "nolonu", "nama", "bode", "luki", "sidu", "fede",
  "kenebo", "kileka", "nulu", "bomo", "lebili", "dedu", "lefe", "nadulo", "dele", "loko",
  "sinanu", "mumo", "sodona", "kisi", "dusufu", "kosole", "kiku", "nuni", "binenu", "nimiso",
  "dafa", "mudade", "bemami", "fana", "fiki", "mefofe", "seso", "nilibi", "fobafi",
)
# fmt: on

# Frames of each phone at the common rate, before jitter.
_FRAMES = {"b": 9, "d": 9, "k": 11, "l": 9, "m": 10, "n": 10, "s": 12, "f": 11}
_FRAMES |= {"a": 16, "e": 15, "i": 14, "o": 15, "u": 14}
_LAST_VOWEL = 1.3  # the last vowel of an utterance is that much longer
_EDGE_FRAMES = (6, 11)  # of the silence before and after, from and below
_PAUSE_FRAMES = (5, 15)  # of a pause between two words
_LEAST_FRAMES = 6  # of a phone: 48 ms

TRAINING_SPEAKERS = range(32)
UNSEEN_SPEAKERS = range(32, 40)

Split = Literal["train", "unseen_speakers", "unseen_pairs"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speaker:
  """What all utterances of one voice share.

  Attributes:
    f0: mean pitch in Hz.
    tract: length of the vocal tract relative to the average one; formants lie at 1 / tract.
    tilt: how fast the voice's source falls with frequency: amplitude as f ** -tilt.
    breath: level of the noise in the voice, relative to it.
    vibrato: depth in semitones.
  """

  f0: float
  tract: float
  tilt: float
  breath: float
  vibrato: float


def speaker(index: int) -> Speaker:
  """Voice `index`, any number >= 0; the world's are 0 to 39.

  Voices come from a sequence of low discrepancy (Roberts' R_d), so that any run of them covers pitch,
  tract and the rest evenly and no two of a run are alike.
  """
  root = 1.0
  for _ in range(60):  # the positive root of x ** 6 = x + 1
    root = (1 + root) ** (1 / 6)
  share = (0.5 + (index + 1) * root ** -np.arange(1.0, 6.0)) % 1
  return Speaker(
    f0=float(90 * (260 / 90) ** share[0]),
    tract=float(0.86 * (1.16 / 0.86) ** share[1]),
    tilt=float(0.75 + 0.5 * share[2]),
    breath=float(0.02 + 0.1 * share[3]),
    vibrato=float(0.3 * share[4]),
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segment:
  """A phone or a pause: a name of `PHONES`, and how many frames it lasts."""

  phone: str
  frames: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Utterance:
  """Everything a waveform follows from.

  Attributes:
    words: in order.
    speaker: index of the voice (`speaker`).
    segments: its phones and pauses, in order.
    pitch: semitones above the speaker's mean.
    fall: semitones from the start to the end.
    level: of the voice, in dB relative to the common level.
    formant_jitter: standard deviation of each phone's formants, relative.
    snr: of added noise, in dB; None for none.
    seed: of the breath, the jitter and the noise.
  """

  words: tuple[str, ...]
  speaker: int
  segments: tuple[Segment, ...]
  pitch: float = 0.0
  fall: float = 2.0
  level: float = 0.0
  formant_jitter: float = 0.0
  snr: float | None = None
  seed: int = 0

  @property
  def text(self) -> str:
    """The transcript."""
    return " ".join(self.words)

  @property
  def frames(self) -> int:
    """Its length in frames of `HOP` samples."""
    return sum(s.frames for s in self.segments)

  @property
  def unseen_pair(self) -> bool:
    """Whether it has a pair of neighbouring words that never occurs in training."""
    return any(map(is_held_out, self.words, self.words[1:]))

  def to_json(self) -> str:
    """One line that `utterance_from_json` reads."""
    return json.dumps(config_lib.to_dict(self))


def utterance_from_json(text: str | bytes) -> Utterance:
  """The utterance that `Utterance.to_json` wrote.

  Raises:
    UserError: it names an unknown key, lacks one, or one has the wrong type.
  """
  return config_lib.build(Utterance, json.loads(text), path="utterance")


def is_held_out(first: str, second: str) -> bool:
  """Whether training never has `second` right after `first`: 6 of 50 words after, and before, each word."""
  i, j = VOCABULARY.index(first), VOCABULARY.index(second)
  return (3 * i + j) % 25 < 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeechConfig:
  """How utterances are drawn. Every nuisance can be turned off.

  Attributes:
    min_words, max_words: how many, uniformly.
    pause_probability: of a short pause between two words.
    rate_jitter: relative change of the rate of an utterance, at most.
    duration_jitter: relative change of the length of each phone, at most, on top.
    pitch_jitter: semitones of the whole utterance, at most.
    level_jitter: dB, at most.
    formant_jitter: relative, standard deviation, of each phone.
    noise_probability: of an utterance with added noise.
    snr_low, snr_high: of that noise, in dB, uniformly.
  """

  min_words: int = 2
  max_words: int = 4
  pause_probability: float = 0.25
  rate_jitter: float = 0.1
  duration_jitter: float = 0.1
  pitch_jitter: float = 0.3
  level_jitter: float = 3.0
  formant_jitter: float = 0.015
  noise_probability: float = 0.0
  snr_low: float = 10.0
  snr_high: float = 30.0

  def __post_init__(self):
    if not 1 <= self.min_words <= self.max_words:
      raise ValueError(
        f"min_words {self.min_words} and max_words {self.max_words} must be 1 or more, in order"
      )
    if not self.snr_low <= self.snr_high:
      raise ValueError(f"snr_low {self.snr_low} must not exceed snr_high {self.snr_high}")
    limits = {"pause_probability": 1, "noise_probability": 1, "rate_jitter": 0.3}
    limits |= {
      "duration_jitter": 0.3,
      "pitch_jitter": 3,
      "level_jitter": 12,
      "formant_jitter": 0.05,
    }
    for name, most in limits.items():
      if not 0 <= getattr(self, name) <= most:
        raise ValueError(f"{name} must be between 0 and {most}, got {getattr(self, name)}")


def sample_utterance(
  rng: np.random.Generator, config: SpeechConfig, *, split: Split = "train"
) -> Utterance:
  """Draws an utterance.

  Args:
    rng: the only source of randomness.
    config: how.
    split: "train": training speakers and pairs of words; "unseen_speakers": of these, other speakers;
      "unseen_pairs": training speakers, and at least one held-out pair (so two words at least).
  """
  speakers = UNSEEN_SPEAKERS if split == "unseen_speakers" else TRAINING_SPEAKERS
  least = max(config.min_words, 2) if split == "unseen_pairs" else config.min_words
  count = int(rng.integers(least, max(config.max_words, least) + 1))
  words = _sample_words(rng, count, held_out=split == "unseen_pairs")
  return speak(rng, config, words, speaker=int(rng.choice(speakers)))


def speak(
  rng: np.random.Generator, config: SpeechConfig, words: Sequence[str], *, speaker: int
) -> Utterance:
  """Draws how voice `speaker` says `words`, which may be any sequences of the world's syllables."""
  rate = 1 + _uniform(rng, config.rate_jitter)
  segments = [Segment(phone=SILENCE, frames=int(rng.integers(*_EDGE_FRAMES)))]
  for i, word in enumerate(words):
    if i and rng.random() < config.pause_probability:
      segments.append(Segment(phone=SILENCE, frames=int(rng.integers(*_PAUSE_FRAMES))))
    for j, phone in enumerate(word):
      last = i == len(words) - 1 and j == len(word) - 1
      length = _FRAMES[phone] * (_LAST_VOWEL if last else 1)
      frames = round(length / rate * (1 + _uniform(rng, config.duration_jitter)))
      segments.append(Segment(phone=phone, frames=max(frames, _LEAST_FRAMES)))
  # The end is filled up to whole codec frames, so that no clip has half of one.
  edge = int(rng.integers(*_EDGE_FRAMES))
  edge += -(sum(s.frames for s in segments) + edge) % FRAMES_PER_CODE
  segments.append(Segment(phone=SILENCE, frames=edge))
  noisy = rng.random() < config.noise_probability
  return Utterance(
    words=tuple(words),
    speaker=speaker,
    segments=tuple(segments),
    pitch=_uniform(rng, config.pitch_jitter),
    level=_uniform(rng, config.level_jitter),
    formant_jitter=config.formant_jitter,
    snr=float(rng.uniform(config.snr_low, config.snr_high)) if noisy else None,
    seed=int(rng.integers(2**31)),
  )


def usual_frames(words: Sequence[str]) -> float:
  """How many frames the words last without jitter, pauses and the silence around."""
  phones = "".join(words)
  return sum(_FRAMES[p] for p in phones) + (_LAST_VOWEL - 1) * _FRAMES[phones[-1]]


def _sample_words(rng, count: int, *, held_out: bool) -> tuple[str, ...]:
  """Words of which all pairs are trained, or one at least is not; the others are then as they come."""
  must = int(rng.integers(1, count)) if held_out else -1
  words = [VOCABULARY[rng.integers(len(VOCABULARY))]]
  for i in range(1, count):
    options = VOCABULARY
    if i == must or not held_out:
      options = [w for w in VOCABULARY if is_held_out(words[-1], w) == (i == must)]
    words.append(options[int(rng.integers(len(options)))])
  return tuple(words)


def _uniform(rng, most: float) -> float:
  return float(rng.uniform(-most, most))
