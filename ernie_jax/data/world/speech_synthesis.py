"""From an utterance to a waveform with labels: a voice and noise, through formants, frame by frame.

A pulse train at the speaker's pitch and breath noise pass five resonators scaled by the length of the
vocal tract; hisses and bursts pass a bell-shaped filter of their own. Filters are applied to the
short-time spectrum of their source (16 ms window, 8 ms hop), so no loop runs over samples. The tracks of
formants and levels are smoothed over time, and a consonant's formants lean towards its neighbours'
(coarticulation).

Letters: S samples, F frames of `HOP` samples, P phones of an utterance, W bins of a spectrum.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, UInt8

from ernie_jax.data.world.speech import (
  CONSONANTS,
  FRAMES_PER_CODE,
  HOP,
  PHONES,
  RATE,
  SILENCE,
  VOWELS,
  Speaker,
  Utterance,
  speaker,
)

FORMAT = (
  1  # part of the name of what is made from it: raise it when equal utterances sound different
)
_WINDOW = 2 * HOP
_FFT = 2 * _WINDOW  # room for the filters' response
_BLOCKS = _FFT // HOP
_BELL = np.sin(np.pi * (np.arange(_WINDOW) + 0.5) / _WINDOW).astype(np.float32) ** 2  # adds up to 1
_RMS = 0.05  # of open vowels at level 0
_LOUD = 0.5  # level of the voice from which on a frame is an open one
_VIBRATO_HZ = 5.5
_UPPER_FORMANTS = (3500.0, 4500.0)
_BANDWIDTHS = (70.0, 90.0, 130.0, 190.0, 260.0)
_LEAN = 0.25  # of a consonant's formants towards its vowels', and a third of it the other way
_FORMANT_SMOOTHING, _LEVEL_SMOOTHING = 2.0, 0.7  # standard deviations, in frames
_BURST_FRAMES = 2
_ROOM = 0.95  # of full scale


@dataclasses.dataclass(frozen=True)
class _Sound:
  """How a phone is made; levels are amplitudes relative to an open vowel's.

  Attributes:
    formants: the first three, in Hz, of the average tract.
    voice: level of the voice.
    hiss: level of the noise that does not pass the formants.
    centre, width: of that noise, in Hz.
    burst: level of the noise with which a closure ends; the hiss has this level in the last frames only.
  """

  formants: tuple[float, float, float]
  voice: float = 0.0
  hiss: float = 0.0
  centre: float = 3000.0
  width: float = 1000.0
  burst: float = 0.0


# Formants of vowels: near Peterson and Barney (1952), men; of consonants: where the transitions point.
_SOUNDS = {
  SILENCE: _Sound((500, 1500, 2500)),
  "a": _Sound((730, 1150, 2440), voice=1.0),
  "e": _Sound((520, 1840, 2480), voice=0.9),
  "i": _Sound((280, 2270, 3000), voice=0.8),
  "o": _Sound((500, 850, 2410), voice=0.9),
  "u": _Sound((310, 900, 2240), voice=0.8),
  "b": _Sound((240, 800, 2200), voice=0.2, centre=900, width=700, burst=0.8),
  "d": _Sound((240, 1800, 2700), voice=0.2, centre=4200, width=1200, burst=0.6),
  "k": _Sound((300, 1900, 2300), centre=2000, width=500, burst=1.0),
  "l": _Sound((420, 1250, 3000), voice=0.7),
  "m": _Sound((260, 950, 2050), voice=0.4),
  "n": _Sound((260, 1750, 2650), voice=0.4),
  "s": _Sound((300, 1600, 2600), hiss=0.7, centre=5600, width=1000),
  "f": _Sound((300, 1000, 2200), hiss=0.2, centre=3500, width=3000),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Speech:
  """A waveform with what is known about each frame of `HOP` samples.

  Attributes:
    waveform: in [-1, 1]; S = F * HOP.
    phones: indices into `PHONES`.
    f0: in Hz; 0 where there is no voice.
  """

  waveform: Float[np.ndarray, "S"] = dataclasses.field(repr=False)
  phones: UInt8[np.ndarray, "F"] = dataclasses.field(repr=False)
  f0: Float[np.ndarray, "F"] = dataclasses.field(repr=False)


def synthesise(utterance: Utterance) -> Speech:
  """Says it. Equal utterances have equal waveforms; float32, at `RATE`."""
  voice = speaker(utterance.speaker)
  rng = np.random.default_rng(utterance.seed)
  tracks = _tracks(utterance, voice, rng)
  f0 = _pitch_track(utterance, voice, rng)
  noise = rng.standard_normal(utterance.frames * HOP, dtype=np.float32)
  waveform = _filtered(_pulses(f0), noise, tracks, voice)
  level = _RMS * 10 ** (utterance.level / 20)
  waveform *= min(level, _ROOM / (np.abs(waveform).max() + 1e-9))
  if utterance.snr is not None:
    spread = np.sqrt(np.mean(waveform**2)) * 10 ** (-utterance.snr / 20)
    waveform += spread * rng.standard_normal(len(waveform), dtype=np.float32)
    np.clip(waveform, -1, 1, out=waveform)
  return Speech(
    waveform=waveform.astype(np.float32),
    phones=phone_labels(utterance),
    f0=np.where(tracks.voice > 0.1, f0, 0).astype(np.float32),
  )


def phone_labels(utterance: Utterance) -> UInt8[np.ndarray, "F"]:
  """The phone of each frame, as an index into `PHONES`."""
  names = [PHONES.index(s.phone) for s in utterance.segments]
  return np.repeat(np.array(names, np.uint8), [s.frames for s in utterance.segments])


def code_labels(
  phones: UInt8[np.ndarray, "F"], frames_per_code: int = FRAMES_PER_CODE
) -> UInt8[np.ndarray, "n"]:
  """The phone that fills most of each codec frame; the last one may be cut short."""
  votes = np.eye(len(PHONES), dtype=np.int32)[phones]
  sums = np.add.reduceat(votes, np.arange(0, len(phones), frames_per_code), axis=0)
  return sums.argmax(-1).astype(np.uint8)


@dataclasses.dataclass(frozen=True, eq=False)
class _Tracks:
  """What the filters are in each frame: formants [F, 5] in Hz, levels [F], the hiss's centre and width."""

  formants: np.ndarray
  voice: np.ndarray
  hiss: np.ndarray
  centre: np.ndarray
  width: np.ndarray


def _tracks(utterance: Utterance, voice: Speaker, rng: np.random.Generator) -> _Tracks:
  segments = utterance.segments
  lengths = np.array([s.frames for s in segments])
  sounds = [_SOUNDS[s.phone] for s in segments]
  targets = _leaning(np.array([s.formants for s in sounds]), [s.phone for s in segments])
  jitter = rng.normal(0, 1, (len(segments), 5)) * utterance.formant_jitter
  upper = np.broadcast_to(_UPPER_FORMANTS, (len(segments), 2))
  targets = np.concatenate([targets, upper], -1) * np.exp(jitter) / voice.tract
  spread = lambda values: np.repeat(np.array(values, np.float64), lengths, axis=0)
  ends = np.cumsum(lengths)
  hiss = spread([s.hiss for s in sounds])
  for end, sound in zip(ends, sounds):
    if sound.burst:
      hiss[end - _BURST_FRAMES : end] = sound.burst
  return _Tracks(
    formants=_smooth(spread(targets), _FORMANT_SMOOTHING),
    voice=_smooth(spread([s.voice for s in sounds]), _LEVEL_SMOOTHING),
    hiss=_smooth(hiss, _LEVEL_SMOOTHING),
    # Hisses arise in front of the tongue: the length of the tract matters less.
    centre=spread([s.centre for s in sounds]) / np.sqrt(voice.tract),
    width=spread([s.width for s in sounds]),
  )


def _leaning(targets: np.ndarray, phones: list[str]) -> np.ndarray:
  """Formants [P, 3] after each phone is drawn towards its neighbours; a pause takes theirs."""
  padded = np.concatenate([targets[:1], targets, targets[-1:]])
  around = (padded[:-2] + padded[2:]) / 2
  share = {SILENCE: 0.9}
  share |= dict.fromkeys(CONSONANTS, _LEAN) | dict.fromkeys(VOWELS, _LEAN / 3)
  weight = np.array([share[p] for p in phones])[:, None]
  return targets + weight * (around - targets)


def _smooth(track: np.ndarray, spread: float) -> np.ndarray:
  """A Gaussian of that many frames along the first axis, edges held."""
  reach = int(4 * spread) + 1
  kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / spread) ** 2)
  padded = np.pad(track, [(reach, reach)] + [(0, 0)] * (track.ndim - 1), mode="edge")
  windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=0)
  return windows @ (kernel / kernel.sum())


def _pitch_track(utterance: Utterance, voice: Speaker, rng: np.random.Generator) -> np.ndarray:
  """Pitch in Hz at the middle of each frame, voiced or not: falling over the utterance, with vibrato."""
  frames = np.arange(utterance.frames) + 0.5
  seconds = frames * HOP / RATE
  fall = utterance.fall * (0.5 - frames / utterance.frames)
  vibrato = voice.vibrato * np.sin(2 * np.pi * (_VIBRATO_HZ * seconds + rng.random()))
  return voice.f0 * 2 ** ((utterance.pitch + fall + vibrato) / 12)


def _pulses(f0: np.ndarray) -> np.ndarray:
  """A train [S] of pulses of unit power, each shared by the two samples that it falls between."""
  at = np.arange(len(f0) * HOP)
  step = np.interp(at, (np.arange(len(f0)) + 0.5) * HOP, f0) / RATE
  phase = np.cumsum(step)
  starts = np.flatnonzero(np.diff(np.floor(phase), prepend=0.0) > 0)
  late = np.minimum((phase[starts] % 1) / step[starts], 1)  # samples that the pulse came before
  height = 1 / np.sqrt(step[starts])
  train = np.zeros(len(phase) + 1)
  train[starts + 1] += height * (1 - late)
  train[starts] += height * late
  return train[1:].astype(np.float32)


def _filtered(
  pulses: np.ndarray, noise: np.ndarray, tracks: _Tracks, voice: Speaker
) -> Float[np.ndarray, "S"]:
  """Both sources through their filters, added up, with the voice of unit power in open vowels."""
  hz = np.fft.rfftfreq(_FFT, 1 / RATE).astype(np.float32)
  tilt = (1 + (hz / 200) ** 2) ** (-voice.tilt / 2)
  noise = _spectra(noise)
  voiced = (_spectra(pulses) + voice.breath * noise) * tilt
  voiced *= _resonances(_between(tracks.formants), hz)
  level = _between(tracks.voice)
  loud = level > _LOUD
  power = np.mean(np.abs(voiced[loud]) ** 2) / np.mean(_BELL**2) / _WINDOW
  voiced *= (level / np.sqrt(power)).astype(np.float32)[:, None]
  centre, width, hiss = (_between(t) for t in (tracks.centre, tracks.width, tracks.hiss))
  bell = hiss[:, None] * np.exp(-0.5 * ((hz - centre[:, None]) / width[:, None]) ** 2)
  voiced += noise * bell.astype(np.float32)
  return _overlapped(np.fft.irfft(voiced, _FFT).astype(np.float32))


def _between(track: np.ndarray) -> np.ndarray:
  """Values [F + 1, ..] where frames meet, and at both ends: windows lie there."""
  padded = np.concatenate([track[:1], track, track[-1:]])
  return (padded[:-1] + padded[1:]) / 2


def _spectra(source: Float[np.ndarray, "S"]) -> np.ndarray:
  """Spectra [F + 1, W] of overlapping windows that add up to the source."""
  padded = np.pad(source, (HOP, HOP))
  windows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::HOP]
  return np.fft.rfft(windows * _BELL, _FFT).astype(np.complex64)


def _resonances(formants: np.ndarray, hz: np.ndarray) -> np.ndarray:
  """The response [F + 1, W] of the five resonators in a row, of gain 1 at 0 Hz."""
  late = np.exp(-2j * np.pi * hz / RATE).astype(np.complex64)
  response = np.ones((len(formants), len(hz)), np.complex64)
  for formant, bandwidth in zip(formants.T, _BANDWIDTHS):
    radius = np.exp(-np.pi * bandwidth / RATE)
    a = (2 * radius * np.cos(2 * np.pi * formant / RATE)).astype(np.float32)[:, None]
    b = np.float32(radius**2)
    response *= (1 - a * late + b * late**2) / (1 - a + b)
  return 1 / response


def _overlapped(blocks: np.ndarray) -> np.ndarray:
  """Adds blocks [F + 1, _FFT], `HOP` samples apart, and cuts the pad off."""
  count = len(blocks)
  parts = blocks.reshape(count, _BLOCKS, HOP)
  total = np.zeros((count + _BLOCKS - 1, HOP), np.float32)
  for i in range(_BLOCKS):
    total[i : i + count] += parts[:, i]
  return total[1:count].reshape(-1)
