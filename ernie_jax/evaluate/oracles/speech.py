"""Reads what is said in a waveform of the world's language, by whom and how high; `speech_score` judges it by a prompt.

    oracle = SpeechOracle.load(".cache/oracles")
    readings = oracle.read(waveforms)
    score = judge_speech(oracle, readings[0], Said(words=("bubi", "nama"), speaker=3))

Words come from a Viterbi search over the vocabulary, phones from one over all phones that knows no
words and no syllables (the stricter measure), pitch from autocorrelation, and the length of the vocal
tract from the cepstra of the vowels. The oracle is fitted in closed form on voices and
sequences of syllables of its own, which are in no data set; it never sees a model or a codec.

Letters: S samples, F frames of 8 ms, C cepstra, J states, V vowels.
"""

import dataclasses
import hashlib
import json
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from ernie_jax.data.world.speech import (
  CONSONANTS,
  PHONES,
  SILENCE,
  VOCABULARY,
  VOWELS,
  SpeechConfig,
  Utterance,
  speak,
  speaker,
)
from ernie_jax.data.world.speech_synthesis import FORMAT, synthesise
from ernie_jax.evaluate.oracles.decoder import Loop, Span
from ernie_jax.evaluate.oracles.phones import Mixtures, cepstra, fit_mixtures
from ernie_jax.evaluate.oracles.pitch import mean_pitch, read_pitch, semitones
from ernie_jax.whole_file import written_whole

_FORMAT = 1  # part of the cached file's name: raise it when what is fitted changes
_VOICES = range(1000, 1064)  # the oracle's own
_THIRDS = 3
_SCALE = 0.25  # of log likelihoods: neighbouring frames see the same context
_WORD_WEIGHT, _PHONE_WEIGHT, _PAUSE_WEIGHT = -6.0, -6.0, -2.0  # log weights of entering a unit
_AT_ONCE = 32  # clips decoded together
_FEWEST_FRAMES = 10  # of vowels, to tell the tract from


@dataclasses.dataclass(frozen=True)
class FitConfig:
  """How much the oracle is fitted on.

  Attributes:
    utterances: how many.
    noisy: share of them with noise at 8 to 30 dB.
    seed: of their words.
  """

  utterances: int = 384
  noisy: float = 0.4
  seed: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Reading:
  """What a waveform says.

  Attributes:
    words: the most likely words of the vocabulary; none in silence.
    spans: first frame of each word and the one after its last.
    phones: the most likely phones without a vocabulary, pauses left out.
    f0: pitch of each frame in Hz, 0 without voice.
    tract: the vocal tract's length, relative to the average; NaN where too little is voiced.
    pitch: median of `f0` where there is voice, else NaN.
  """

  words: tuple[str, ...]
  spans: tuple[tuple[int, int], ...]
  phones: tuple[str, ...]
  f0: Float[np.ndarray, "F"] = dataclasses.field(repr=False)
  tract: float
  pitch: float

  @property
  def text(self) -> str:
    """The transcript."""
    return " ".join(self.words)

  @property
  def speech_frames(self) -> int:
    """Frames that words take, pauses left out."""
    return sum(end - start for start, end in self.spans)


@dataclasses.dataclass(frozen=True, eq=False)
class SpeechOracle:
  """The fitted reader.

  Attributes:
    mixtures: scores of the states of phones.
    tract: weights [V, C + 1] for each vowel, from the mean of its cepstra and a 1 to the logarithm of the
      tract's length.
    spread: standard deviations of the measured pitch (semitones) and tract (logarithm), with which voices
      are told apart.
  """

  mixtures: Mixtures
  tract: Float[np.ndarray, "V C1"]
  spread: tuple[float, float]

  @classmethod
  def load(cls, directory: str | os.PathLike, config: FitConfig = FitConfig()) -> "SpeechOracle":
    """The oracle kept in `directory`, or fitted now and kept there.

    Raises:
      UserError: the directory cannot be written.
    """
    settings = [dataclasses.asdict(config), FORMAT, _FORMAT, VOCABULARY]
    path = Path(directory).expanduser() / f"speech-{_digest(settings)}.npz"
    try:
      return _unpack(path)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):  # absent or damaged
      oracle = fit_oracle(config)
      with written_whole(path) as part, open(part, "wb") as file:
        np.savez(file, **_pack(oracle))
      return oracle

  def read(self, waveforms: Sequence[Float[np.ndarray, "S"]]) -> list[Reading]:
    """Reads float waveforms in [-1, 1] at 16 kHz, of any lengths."""
    readings: list[Reading | None] = [None] * len(waveforms)
    order = sorted(range(len(waveforms)), key=lambda i: len(waveforms[i]))
    for start in range(0, len(order), _AT_ONCE):
      chosen = order[start : start + _AT_ONCE]
      values = [cepstra(waveforms[i]) for i in chosen]
      scores = [_scaled(self.mixtures, v) for v in values]
      words, phones = _word_loop().decode(scores), _phone_loop().decode(scores)
      for i, v, w, p in zip(chosen, values, words, phones):
        readings[i] = self._reading(waveforms[i], v, w, p)
    return readings

  def nearest_voice(self, reading: Reading, candidates: Sequence[int]) -> int | None:
    """The voice whose pitch and tract are nearest to those read; None where there is no voice."""
    if not candidates or np.isnan(reading.pitch) or np.isnan(reading.tract):
      return None
    voices = [speaker(c) for c in candidates]
    pitch = semitones(reading.pitch, np.array([v.f0 for v in voices])) / self.spread[0]
    tract = np.log(reading.tract / np.array([v.tract for v in voices])) / self.spread[1]
    return candidates[int(np.argmin(pitch**2 + tract**2))]

  def _reading(self, waveform, values, words: Sequence[Span], phones: Sequence[Span]) -> Reading:
    spoken = [s for s in words if s.unit < len(VOCABULARY)]
    f0 = read_pitch(waveform)
    return Reading(
      words=tuple(VOCABULARY[s.unit] for s in spoken),
      spans=tuple((s.start, s.end) for s in spoken),
      phones=tuple(PHONES[s.unit] for s in phones if PHONES[s.unit] != SILENCE),
      f0=f0,
      tract=self._tract(values, phones),
      pitch=mean_pitch(f0),
    )

  def _tract(self, values, phones: Sequence[Span]) -> float:
    labels = np.zeros(len(values), np.int64)
    for span in phones:
      labels[span.start : span.end] = span.unit
    means, counts = _vowel_means(values, labels)
    if counts.sum() < _FEWEST_FRAMES:
      return float("nan")
    return float(np.exp(_log_tract(means, counts, self.tract)))


def fit_oracle(config: FitConfig = FitConfig()) -> SpeechOracle:
  """Fits the oracle, in about ten seconds."""
  rng = np.random.default_rng(config.seed)
  drawn = [_own_utterance(rng, config, i) for i in range(config.utterances)]
  said = [synthesise(u) for u in drawn]
  values = [cepstra(s.waveform) for s in said]
  mixtures = fit_mixtures(values, [_states(u) for u in drawn])
  means, counts = (
    np.stack(a) for a in zip(*(_vowel_means(v, s.phones) for v, s in zip(values, said)))
  )
  tracts = np.log([speaker(u.speaker).tract for u in drawn])
  weights = _fit_tract(means, counts, tracts)
  heard = np.array([mean_pitch(read_pitch(s.waveform)) for s in said])
  wrong = semitones(heard, [speaker(u.speaker).f0 for u in drawn])
  spread = float(np.nanstd(wrong)), float(np.std(_log_tract(means, counts, weights) - tracts))
  return SpeechOracle(mixtures, weights, spread)


def _own_utterance(rng: np.random.Generator, config: FitConfig, index: int) -> Utterance:
  """Made-up words of any syllables, by one of the oracle's own voices."""
  syllable = lambda: CONSONANTS[rng.integers(len(CONSONANTS))] + VOWELS[rng.integers(len(VOWELS))]
  words = ["".join(syllable() for _ in range(rng.integers(2, 4))) for _ in range(3)]
  drawn = SpeechConfig(noise_probability=config.noisy, snr_low=8.0)
  return speak(rng, drawn, words, speaker=_VOICES[index % len(_VOICES)])


def _states(utterance: Utterance) -> np.ndarray:
  """The third of a phone that each frame is in; silence has one state, the first."""
  parts = []
  for segment in utterance.segments:
    phone = PHONES.index(segment.phone)
    third = np.arange(segment.frames) * _THIRDS // segment.frames
    parts.append(third * 0 if phone == 0 else 1 + (phone - 1) * _THIRDS + third)
  return np.concatenate(parts)


def _phone_states(phone: str) -> list[int]:
  index = PHONES.index(phone)
  return [0] * _THIRDS if index == 0 else [1 + (index - 1) * _THIRDS + i for i in range(_THIRDS)]


def _word_loop() -> Loop:
  """Every word, and last a pause."""
  units = [[state for p in word for state in _phone_states(p)] for word in VOCABULARY]
  weights = [_WORD_WEIGHT] * len(VOCABULARY) + [_PAUSE_WEIGHT]
  return Loop([*units, _phone_states(SILENCE)], weights)


def _phone_loop() -> Loop:
  """Every phone, in the order of `PHONES`."""
  weights = [_PAUSE_WEIGHT if p == SILENCE else _PHONE_WEIGHT for p in PHONES]
  return Loop([_phone_states(p) for p in PHONES], weights)


def _scaled(mixtures: Mixtures, values: Float[np.ndarray, "F C"]) -> Float[np.ndarray, "F J"]:
  if not len(values):
    return np.zeros((0, len(mixtures.weights)), np.float32)
  scores = mixtures.scores(values)
  return (_SCALE * (scores - scores.max(-1, keepdims=True))).astype(np.float32)


def _vowel_means(
  values: Float[np.ndarray, "F C"], labels: Int[np.ndarray, "F"]
) -> tuple[Float[np.ndarray, "V C1"], Int[np.ndarray, "V"]]:
  """The mean cepstra of each vowel and a 1, and how many frames of it there are, perhaps none."""
  counts = np.array([(labels == PHONES.index(v)).sum() for v in VOWELS])
  sums = np.stack([values[labels == PHONES.index(v)].sum(0) for v in VOWELS])
  return np.pad(sums / np.maximum(counts, 1)[:, None], [(0, 0), (0, 1)], constant_values=1), counts


def _fit_tract(
  means: Float[np.ndarray, "n V C1"], counts: Int[np.ndarray, "n V"], tracts: np.ndarray
) -> Float[np.ndarray, "V C1"]:
  """Least squares for each vowel on its own: how a tract changes the cepstra depends on the formants."""
  weights = []
  for v in range(len(VOWELS)):
    x, y = means[counts[:, v] > 0, v], tracts[counts[:, v] > 0]
    weights.append(np.linalg.solve(x.T @ x + 1e-3 * len(x) * np.eye(x.shape[1]), x.T @ y))
  return np.stack(weights)


def _log_tract(means, counts, weights) -> Float[np.ndarray, "*n"]:
  """What the vowels say, each by how many frames it has."""
  return ((means * weights).sum(-1) * counts).sum(-1) / counts.sum(-1)


def _digest(settings) -> str:
  return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]


def _pack(oracle: SpeechOracle) -> dict[str, np.ndarray]:
  arrays = {f.name: getattr(oracle.mixtures, f.name) for f in dataclasses.fields(Mixtures)}
  rest = {"tract": oracle.tract, "spread": oracle.spread}
  return {**arrays, **rest}


def _unpack(path: Path) -> SpeechOracle:
  with np.load(path) as file:
    mixtures = Mixtures(**{f.name: file[f.name] for f in dataclasses.fields(Mixtures)})
    spread = tuple(float(v) for v in file["spread"])
    return SpeechOracle(mixtures, file["tract"], spread)
