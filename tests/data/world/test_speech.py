"""The world's utterances: a vocabulary that can be told apart, splits that hold their word, true labels."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_jax.data.world.speech import (
  CONSONANTS,
  FRAMES_PER_CODE,
  HOP,
  PHONES,
  RATE,
  SILENCE,
  TRAINING_SPEAKERS,
  UNSEEN_SPEAKERS,
  VOCABULARY,
  VOWELS,
  SpeechConfig,
  is_held_out,
  sample_utterance,
  speak,
  speaker,
  usual_frames,
  utterance_from_json,
)
from ernie_jax.data.world.speech_synthesis import code_labels, synthesise
from ernie_jax.evaluate.oracles.speech_score import edits

COMMON = SpeechConfig()
STILL = SpeechConfig(
  pause_probability=0,
  rate_jitter=0,
  duration_jitter=0,
  pitch_jitter=0,
  level_jitter=0,
  formant_jitter=0,
)
SEEDS = st.integers(0, 2**31)


def draw(seed, split="train", config=COMMON):
  return sample_utterance(np.random.default_rng(seed), config, split=split)


def test_words_are_two_or_three_syllables():
  assert len(VOCABULARY) == len(set(VOCABULARY)) == 50
  for word in VOCABULARY:
    assert len(word) in (4, 6)
    assert all(c in CONSONANTS for c in word[::2]) and all(v in VOWELS for v in word[1::2])
  assert set("".join(VOCABULARY)) == set(CONSONANTS + VOWELS)


def test_words_differ_in_two_phones_wherever_they_start_or_end():
  for a, b in itertools.combinations(VOCABULARY, 2):
    assert edits(a, b) >= 2, (a, b)
    short, long = sorted((a, b), key=len)
    if len(short) < len(long):
      assert min(edits(short, long[:4]), edits(short, long[-4:])) >= 2, (a, b)


def test_twelve_percent_of_the_pairs_are_held_out_and_no_word_always():
  held = np.array([[is_held_out(a, b) for b in VOCABULARY] for a in VOCABULARY])
  assert held.mean() == 0.12
  assert (held.sum(0) == 6).all() and (held.sum(1) == 6).all()


@settings(deadline=None, max_examples=50)
@given(SEEDS)
def test_splits_have_the_speakers_and_pairs_they_are_called_for(seed):
  train, voices, pairs = (draw(seed, s) for s in ("train", "unseen_speakers", "unseen_pairs"))
  assert not train.unseen_pair and not voices.unseen_pair and pairs.unseen_pair
  assert train.speaker in TRAINING_SPEAKERS and pairs.speaker in TRAINING_SPEAKERS
  assert voices.speaker in UNSEEN_SPEAKERS
  assert len(TRAINING_SPEAKERS) == 32 and len(UNSEEN_SPEAKERS) == 8


@settings(deadline=None, max_examples=30)
@given(SEEDS)
def test_an_utterance_survives_json_and_sounds_the_same_again(seed):
  utterance = draw(seed, config=SpeechConfig(noise_probability=0.5))
  again = utterance_from_json(utterance.to_json())
  assert again == utterance
  assert (synthesise(again).waveform == synthesise(utterance).waveform).all()


@settings(deadline=None, max_examples=30)
@given(SEEDS)
def test_labels_pitch_and_waveform_fit_together(seed):
  utterance = draw(seed)
  speech = synthesise(utterance)
  assert len(speech.waveform) == utterance.frames * HOP
  assert len(speech.phones) == len(speech.f0) == utterance.frames
  assert utterance.frames % FRAMES_PER_CODE == 0
  said = [PHONES[p] for p, _ in itertools.groupby(speech.phones) if PHONES[p] != SILENCE]
  assert "".join(said) == "".join(utterance.words)
  vowels = speech.phones >= PHONES.index("a")
  assert (speech.f0[vowels] > 0).mean() > 0.95  # but for the frame in which a voice sets in
  assert not speech.f0[speech.phones == PHONES.index(SILENCE)][:4].any()
  voiced = speech.f0[speech.f0 > 0]
  assert np.abs(12 * np.log2(np.median(voiced) / speaker(utterance.speaker).f0)) < 1
  assert np.abs(speech.waveform).max() <= 1 and speech.waveform.dtype == np.float32


def test_the_pulses_come_at_the_pitch_of_the_label():
  utterance = dataclasses.replace(draw(3, config=STILL), speaker=4, fall=0.0)
  speech = synthesise(utterance)
  vowel = next(s for s in range(len(speech.phones)) if PHONES[speech.phones[s]] in VOWELS)
  piece = speech.waveform[vowel * HOP : (vowel + 12) * HOP]
  energy = np.abs(np.fft.rfft(piece * np.hanning(len(piece)), 1 << 16)) ** 2
  hz = np.fft.rfftfreq(1 << 16, 1 / RATE)
  comb = lambda f0: sum(energy[np.abs(hz - k * f0).argmin()] for k in range(1, 6))
  grid = np.arange(80, 300, 0.5)
  best = grid[np.argmax([comb(f) for f in grid])]
  assert best == pytest.approx(speech.f0[vowel + 6], rel=0.02)


def test_a_longer_tract_lowers_the_formants():
  """Of two voices of about the same pitch, the centre of the spectrum below 4 kHz is lower."""
  voices = sorted(range(40), key=lambda i: speaker(i).tract)
  rng = np.random.default_rng(0)
  utterance = speak(rng, STILL, ["fana", "dele"], speaker=0)

  def centre(index):
    energy = np.abs(np.fft.rfft(synthesise(dataclasses.replace(utterance, speaker=index)).waveform))
    hz = np.fft.rfftfreq(utterance.frames * HOP, 1 / RATE)
    second = (hz > 900) & (hz < 2600)
    return (hz[second] * energy[second]).sum() / energy[second].sum()

  assert np.mean([centre(i) for i in voices[-5:]]) < np.mean([centre(i) for i in voices[:5]]) - 50


def test_voices_differ_from_one_another():
  voices = [speaker(i) for i in range(40)]
  for a, b in itertools.combinations(voices, 2):
    assert abs(np.log2(a.f0 / b.f0)) * 12 > 0.4 or abs(np.log(a.tract / b.tract)) > 0.03
  unseen = [speaker(i).f0 for i in UNSEEN_SPEAKERS]
  assert max(unseen) / min(unseen) > 1.8  # high and low ones


def test_noise_is_as_loud_as_the_ratio_says():
  clean = draw(1)
  for snr in (10.0, 20.0):
    noisy = synthesise(dataclasses.replace(clean, snr=snr)).waveform
    voice = synthesise(clean).waveform
    noise = noisy - voice
    assert 10 * np.log10(np.mean(voice**2) / np.mean(noise**2)) == pytest.approx(snr, abs=0.3)


def test_a_codec_frame_has_the_phone_that_fills_most_of_it():
  phones = np.array([1] * 4 + [2] * 6 + [3] * 10 + [4] * 3, np.uint8)
  assert code_labels(phones).tolist() == [2, 3, 4]


def test_without_jitter_words_last_as_long_as_they_usually_do():
  utterance = draw(5, config=STILL)
  frames = sum(s.frames for s in utterance.segments if s.phone != SILENCE)
  assert frames == pytest.approx(usual_frames(utterance.words), abs=1)


@pytest.mark.parametrize(
  "key, value",
  [
    ("min_words", 0),
    ("max_words", 1),
    ("rate_jitter", 0.9),
    ("snr_low", 40.0),
    ("level_jitter", -1),
  ],
)
def test_impossible_settings_are_refused_by_name(key, value):
  with pytest.raises(ValueError, match=key):
    SpeechConfig(**{key: value})
