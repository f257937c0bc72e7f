"""The speech oracle on ground truth, on what is wrong in a known way, and on what is no speech at all."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_jax.data.world.speech import SpeechConfig, sample_utterance, speak, speaker
from ernie_jax.data.world.speech_synthesis import synthesise
from ernie_jax.evaluate.oracles import speech
from ernie_jax.evaluate.oracles.pitch import semitones
from ernie_jax.evaluate.oracles.score import shuffled
from ernie_jax.evaluate.oracles.speech import FitConfig, SpeechOracle
from ernie_jax.evaluate.oracles.speech_score import Said, edits, expected, judge_speech, summarise

SPLITS = ("train", "unseen_speakers", "unseen_pairs")
EVERY_VOICE = tuple(range(40))
WORDS = st.lists(st.sampled_from("abcd"), max_size=7)
COMMON = SpeechConfig()


def draw(split, count, config=COMMON):
  rng = np.random.default_rng(11)
  return [sample_utterance(rng, config, split=split) for _ in range(count)]


@pytest.fixture(scope="module")
def clean(speech_oracle):
  """Utterances, what was synthesised and what was read, for each split; 1,000 words and more."""
  found = {}
  for split in SPLITS:
    utterances = draw(split, 120)
    said = [synthesise(u) for u in utterances]
    found[split] = utterances, said, speech_oracle.read([s.waveform for s in said])
  return found


def scores(oracle, utterances, said, readings, *, candidates=EVERY_VOICE):
  return [
    judge_speech(oracle, r, expected(u, s.f0), candidates=candidates)
    for u, s, r in zip(utterances, said, readings)
  ]


def test_of_a_thousand_clean_words_not_one_in_two_hundred_is_misread(speech_oracle, clean):
  every = [s for split in SPLITS for s in scores(speech_oracle, *clean[split])]
  assert sum(s.words for s in every) >= 1000
  figures = summarise(every)
  assert figures["word_error"] <= 0.005
  assert figures["phone_error"] <= 0.005
  assert figures["pitch_off"] == 0 and figures["pitch_median"] < 0.3
  assert figures["track_median"] < 0.1 and figures["track_off"] < 0.005
  assert figures["duration_error"] < 0.05


@pytest.mark.parametrize("split", SPLITS)
def test_each_split_is_read_as_well(speech_oracle, clean, split):
  figures = summarise(scores(speech_oracle, *clean[split]))
  assert figures["word_error"] <= 0.005 and figures["track_off"] < 0.005
  assert figures["speaker_error"] <= 0.03  # one of forty voices; chance is 0.975


@pytest.mark.parametrize("split", SPLITS)
def test_every_clean_utterance_has_its_pitch_within_a_semitone(clean, split):
  for _, said, reading in zip(*clean[split]):
    assert abs(semitones(reading.pitch, np.median(said.f0[said.f0 > 0]))) < 1


def test_shuffled_transcripts_are_the_floor(speech_oracle, clean):
  utterances, said, readings = clean["unseen_speakers"]
  dealt = shuffled(readings, np.random.default_rng(0))
  figures = summarise(scores(speech_oracle, utterances, said, dealt))
  assert figures["word_error"] >= 0.9 and figures["phone_error"] >= 0.6
  assert figures["speaker_error"] >= 0.7 and figures["pitch_off"] >= 0.6  # of eight voices


def test_noise_of_10_db_costs_few_words(speech_oracle):
  config = SpeechConfig(noise_probability=1.0, snr_low=10.0, snr_high=10.0)
  utterances = draw("unseen_speakers", 60, config)
  said = [synthesise(u) for u in utterances]
  readings = speech_oracle.read([s.waveform for s in said])
  figures = summarise(scores(speech_oracle, utterances, said, readings))
  assert figures["word_error"] <= 0.02 and figures["track_off"] < 0.02


def test_what_is_wrong_is_what_is_counted(speech_oracle):
  said = ("bubi", "nama", "kisi")
  rng = np.random.default_rng(0)
  clip = lambda words, voice: synthesise(speak(rng, SpeechConfig(), words, speaker=voice)).waveform
  spoken = {
    "right": clip(said, 7),
    "replaced": clip(("bubi", "dele", "kisi"), 7),
    "left out": clip(("bubi", "kisi"), 7),
    "too much": clip((*said, "fana"), 7),
    "by another": clip(said, 12),
  }
  readings = dict(zip(spoken, speech_oracle.read(list(spoken.values()))))
  judge = lambda name: judge_speech(
    speech_oracle, readings[name], Said(words=said, speaker=7), candidates=EVERY_VOICE
  )
  assert judge("right").word_errors == 0 and judge("right").speaker_right
  assert all(judge(name).word_errors == 1 for name in ("replaced", "left out", "too much"))
  assert judge("replaced").phone_errors >= 3
  assert judge("left out").duration_ratio < 0.8 < 1.2 < judge("too much").duration_ratio
  other = judge("by another")
  assert other.word_errors == 0 and other.speaker == 12 and not other.speaker_right
  assert other.pitch_error == pytest.approx(abs(semitones(speaker(12).f0, speaker(7).f0)), abs=0.8)


def test_neither_the_level_nor_the_company_changes_a_reading(speech_oracle, clean):
  _, said, readings = clean["train"]
  for i in (0, 5):
    (alone,) = speech_oracle.read([said[i].waveform * 0.1])
    assert alone.words == readings[i].words and alone.phones == readings[i].phones
    assert alone.pitch == pytest.approx(readings[i].pitch, rel=1e-3)
    assert alone.tract == pytest.approx(readings[i].tract, rel=1e-3)


def test_word_spans_are_where_the_words_are(clean):
  utterances, _, readings = clean["train"]
  off = []
  for utterance, reading in zip(utterances, readings):
    ends = np.cumsum([s.frames for s in utterance.segments])
    spoken = [i for i, s in enumerate(utterance.segments) if s.phone != " "]
    firsts = np.cumsum([0] + [len(w) for w in utterance.words])[:-1]
    starts = [ends[spoken[f]] - utterance.segments[spoken[f]].frames for f in firsts]
    off += [abs(s - found[0]) for s, found in zip(starts, reading.spans)]
  assert np.mean(off) < 3  # frames of 8 ms


@pytest.mark.parametrize(
  "waveform",
  [
    np.zeros(0),
    np.zeros(50),
    np.zeros(400),
    np.zeros(16_000),
    np.random.default_rng(0).normal(0, 0.1, 300),
  ],
  ids=["empty", "half a frame", "three frames", "silence", "a click of noise"],
)
def test_what_is_no_speech_says_nothing(speech_oracle, waveform):
  (reading,) = speech_oracle.read([waveform.astype(np.float32)])
  assert reading.words == () and np.isnan(reading.tract)
  score = judge_speech(speech_oracle, reading, Said(("bubi",), speaker=1), candidates=EVERY_VOICE)
  assert score.word_errors == 1 and score.speaker is None and score.speaker_right is False
  figures = summarise([score])
  assert figures["word_error"] == 1 and "pitch_median" not in figures


def test_a_clip_without_voice_counts_as_off_pitch(speech_oracle, clean):
  utterances, said, _ = clean["train"]
  silent = speech_oracle.read([np.zeros(16_000, np.float32), said[0].waveform])
  judged = scores(speech_oracle, [utterances[0]] * 2, [said[0]] * 2, silent)
  assert summarise(judged)["pitch_off"] == 0.5


def test_the_oracle_is_fitted_once_and_again_when_its_file_is_damaged(
  speech_oracle, oracle_dir, clean, monkeypatch
):
  fitted = []
  monkeypatch.setattr(speech, "fit_oracle", lambda config: fitted.append(config) or speech_oracle)
  waveforms = [s.waveform for s in clean["train"][1][:3]]
  kept = SpeechOracle.load(oracle_dir)
  assert not fitted
  for ours, theirs in zip(kept.read(waveforms), speech_oracle.read(waveforms)):
    assert ours.words == theirs.words and ours.tract == theirs.tract
  (path,) = oracle_dir.iterdir()
  path.write_bytes(path.read_bytes()[:1000])
  SpeechOracle.load(oracle_dir)
  SpeechOracle.load(oracle_dir, FitConfig(utterances=100))
  assert [c.utterances for c in fitted] == [FitConfig().utterances, 100]
  assert len(list(oracle_dir.iterdir())) == 2


def test_the_oracle_learns_from_none_of_the_worlds_voices_and_words():
  rng = np.random.default_rng(0)
  drawn = [speech._own_utterance(rng, FitConfig(), i) for i in range(80)]
  assert min(u.speaker for u in drawn) > max(EVERY_VOICE)
  near = [speaker(u.speaker).f0 for u in drawn]
  assert min(near) < 100 and max(near) > 230  # but of the same range


@settings(deadline=None, max_examples=50)
@given(WORDS, WORDS, WORDS)
def test_edits_are_a_distance(a, b, c):
  assert (edits(a, b) == 0) == (a == b)
  assert edits(a, b) == edits(b, a) >= abs(len(a) - len(b))
  assert edits(a, c) <= edits(a, b) + edits(b, c)


def test_a_slower_speaker_takes_longer(speech_oracle):
  rng = np.random.default_rng(0)
  usual = speak(rng, SpeechConfig(rate_jitter=0, duration_jitter=0), ["kisi", "fana"], speaker=3)
  slow = dataclasses.replace(
    usual,
    segments=tuple(dataclasses.replace(s, frames=round(s.frames * 1.5)) for s in usual.segments),
  )
  reads = speech_oracle.read([synthesise(u).waveform for u in (usual, slow)])
  ratios = [judge_speech(speech_oracle, r, Said(usual.words)).duration_ratio for r in reads]
  assert ratios == pytest.approx([1.0, 1.5], abs=0.08)
