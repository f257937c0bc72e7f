"""The world's speech as a data set: what is kept is what was drawn, splits are what they are called."""

import numpy as np
import pytest

from ernie_jax.data.audio import to_int16
from ernie_jax.data.speech_records import SpeechExamples
from ernie_jax.data.world import speech_set
from ernie_jax.data.world.speech import UNSEEN_SPEAKERS, utterance_from_json
from ernie_jax.data.world.speech_set import SPLITS, SpeechSource, draw_example, prepare
from ernie_jax.data.world.speech_synthesis import synthesise

SOURCE = SpeechSource(train=12, validation=6, unseen_speakers=6, unseen_pairs=6)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def build(data_dir):
  return prepare(SOURCE, data_dir)


@pytest.mark.parametrize("split", SPLITS)
def test_what_is_kept_is_what_was_drawn(build, split):
  examples = SpeechExamples(build, split)
  assert len(examples) == getattr(SOURCE, split)
  for i, kept in enumerate(examples):
    drawn = draw_example(SOURCE, split, i)
    assert (kept.transcript, kept.speaker, kept.utterance) == (
      drawn.transcript,
      drawn.speaker,
      drawn.utterance,
    )
    for name in ("waveform", "phones", "f0"):
      ours, theirs = getattr(kept, name), getattr(drawn, name)
      assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)


@pytest.mark.parametrize("split", SPLITS)
def test_waveform_transcript_and_state_belong_together(build, split):
  for example in SpeechExamples(build, split):
    utterance = utterance_from_json(example.utterance)
    assert np.array_equal(to_int16(synthesise(utterance).waveform), example.waveform)
    assert example.transcript == utterance.text and example.speaker == str(utterance.speaker)
    assert utterance.unseen_pair == (split == "unseen_pairs")
    assert (utterance.speaker in UNSEEN_SPEAKERS) == (split == "unseen_speakers")


def test_splits_and_seeds_share_no_utterance(build):
  drawn = [e.utterance for split in SPLITS for e in SpeechExamples(build, split)]
  assert len(set(drawn)) == len(drawn)
  assert draw_example(SpeechSource(seed=1), "train", 0).utterance not in drawn


def test_equal_sources_are_one_build_with_one_fingerprint_and_splits_differ(build, tmp_path):
  again = prepare(SOURCE, tmp_path)
  first, second = (SpeechExamples(b, "train") for b in (build, again))
  assert again.key == build.key and first.fingerprint == second.fingerprint
  assert first.fingerprint != SpeechExamples(again, "validation").fingerprint


def test_a_weight_is_no_part_of_a_build(build, data_dir, monkeypatch):
  monkeypatch.setattr(speech_set, "draw_example", None)  # nothing is drawn again
  assert prepare(SpeechSource(**{**vars(SOURCE), "weight": 3.0}), data_dir) == build


@pytest.mark.parametrize(
  "key, value", [("train", 0), ("unseen_pairs", 0), ("seed", -1), ("weight", 0)]
)
def test_impossible_settings_are_refused_by_name(key, value):
  with pytest.raises(ValueError, match=key):
    SpeechSource(**{key: value})
