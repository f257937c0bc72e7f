"""Judges what the oracle read in a waveform by what should be said.

Letters: F frames of 8 ms, n frames that count.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from ernie_jax.data.world.speech import SILENCE, Utterance, speaker, usual_frames
from ernie_jax.evaluate.oracles.pitch import pitch_errors, semitones
from ernie_jax.evaluate.oracles.speech import Reading, SpeechOracle


@dataclasses.dataclass(frozen=True, eq=False)
class Said:
  """What a waveform should say; None is what is left open.

  Attributes:
    words: the transcript.
    speaker: index of the voice.
    f0: pitch of each frame in Hz, 0 without voice, where the waveform must follow a given one.
    speech_frames: how many frames the words take; without it, as many as they usually do.

  Raises:
    ValueError: there are no words.
  """

  words: tuple[str, ...]
  speaker: int | None = None
  f0: Float[np.ndarray, "F"] | None = dataclasses.field(default=None, repr=False)
  speech_frames: float | None = None

  def __post_init__(self):
    if not self.words:
      raise ValueError("words must not be empty")


@dataclasses.dataclass(frozen=True, eq=False)
class SpeechScore:
  """A waveform against what it should say.

  Attributes:
    words, word_errors: how many there should be; how many are replaced, left out or too much.
    phones, phone_errors: the same of phones, by the loop that knows no words.
    pitch_error: semitones between the speaker's pitch and the median found, absolute; NaN where open or
      without voice.
    track_errors: semitones in each frame that is voiced in both, where a track is given.
    speaker: index of the nearest of the candidate voices; None without voice or candidates.
    speaker_right: whether it is the one wanted; None where open.
    duration_ratio: frames of speech found, relative to those wanted; NaN if nothing was found.
  """

  words: int
  word_errors: int
  phones: int
  phone_errors: int
  pitch_error: float
  track_errors: Float[np.ndarray, "n"] = dataclasses.field(repr=False)
  speaker: int | None
  speaker_right: bool | None
  duration_ratio: float


def judge_speech(
  oracle: SpeechOracle, reading: Reading, said: Said, *, candidates: Sequence[int] = ()
) -> SpeechScore:
  """Compares a reading with what should be said.

  Args:
    oracle: that read it.
    reading: what was read.
    said: what should be.
    candidates: the voices among which to look for the speaker; none: not looked for.
  """
  phones = "".join(said.words)
  frames = said.speech_frames or usual_frames(said.words)
  open_voice = said.speaker is None
  off = (
    float("nan") if open_voice else abs(float(semitones(reading.pitch, speaker(said.speaker).f0)))
  )
  found = oracle.nearest_voice(reading, candidates)
  return SpeechScore(
    words=len(said.words),
    word_errors=edits(reading.words, said.words),
    phones=len(phones),
    phone_errors=edits(reading.phones, phones),
    pitch_error=off,
    track_errors=np.zeros(0) if said.f0 is None else pitch_errors(reading.f0, said.f0),
    speaker=found,
    speaker_right=None if open_voice or not candidates else found == said.speaker,
    duration_ratio=reading.speech_frames / frames if reading.words else float("nan"),
  )


def expected(utterance: Utterance, f0: Float[np.ndarray, "F"] | None = None) -> Said:
  """What a waveform must say to be that utterance."""
  frames = sum(s.frames for s in utterance.segments if s.phone != SILENCE)
  return Said(words=utterance.words, speaker=utterance.speaker, f0=f0, speech_frames=float(frames))


def summarise(scores: Sequence[SpeechScore]) -> dict[str, float]:
  """Figures over many clips; what is left open or not found in all of them is left out.

  word_error and phone_error: errors by words and phones wanted; pitch_median, pitch_off: median of the
  semitones between each clip and its speaker, and the share of clips more than one off (one without voice
  counts); track_median, track_off: the same by frames of given tracks; speaker_error: share of clips
  that sound like another candidate; duration_error: mean relative difference of the length of speech.
  """
  total = lambda name: sum(getattr(s, name) for s in scores)
  figures = {name: total(f"{name}_errors") / total(f"{name}s") for name in ("word", "phone")}
  figures = {f"{name}_error": value for name, value in figures.items()}
  pitch = np.array([s.pitch_error for s in scores])
  if not np.isnan(pitch).all():
    figures |= {"pitch_median": float(np.nanmedian(pitch)), "pitch_off": _share_off(pitch)}
  track = np.concatenate([s.track_errors for s in scores])
  if len(track):
    figures |= {"track_median": float(np.median(track)), "track_off": _share_off(track)}
  right = [s.speaker_right for s in scores if s.speaker_right is not None]
  if right:
    figures["speaker_error"] = 1 - float(np.mean(right))
  ratios = np.array([s.duration_ratio for s in scores])
  if not np.isnan(ratios).all():
    figures["duration_error"] = float(np.nanmean(np.abs(ratios - 1)))
  return figures


def edits(found: Sequence[str], wanted: Sequence[str]) -> int:
  """The fewest replacements, omissions and additions that lead from one sequence to the other."""
  costs = np.arange(len(wanted) + 1)
  for i, item in enumerate(found, 1):
    row = np.empty_like(costs)
    row[0] = i
    for j, other in enumerate(wanted, 1):
      row[j] = min(costs[j] + 1, row[j - 1] + 1, costs[j - 1] + (item != other))
    costs = row
  return int(costs[-1])


def _share_off(errors: np.ndarray) -> float:
  return float(np.mean(~(errors <= 1)))
