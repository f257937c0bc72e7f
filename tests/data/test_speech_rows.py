"""Rows of speech: what is drawn depends on the row's number alone, and the codec runs once."""

import jax
import numpy as np
import pytest
from small_speech import CODE, SHAPE, codes, voice
from small_vision import CONFIG, SLOTS, media

from ernie_jax.data.media_example import MediaExample
from ernie_jax.data.media_files import MediaFolder
from ernie_jax.data.media_rows import MediaDataConfig, MediaRows
from ernie_jax.data.mixture import stack_rows
from ernie_jax.data.pipeline import Pipeline
from ernie_jax.data.speech_codes import CodedSpeech, coded_speech
from ernie_jax.data.speech_example import SpeechExample
from ernie_jax.data.speech_files import SpeechFolder
from ernie_jax.data.speech_rows import SpeechDataConfig, SpeechRows, SpeechTasks
from ernie_jax.errors import UserError
from ernie_jax.sequence import Kind, RowBuilder, SpecialToken, Text
from ernie_jax.speech import Encoded
from ernie_jax.text.tokenizer import train_tokenizer

LENGTH = 90
TEXTS = ("bada kilo", "mune", "sofi bada", "kilo mune sofi")


class Clips:
  """Six clips by two speakers, and one of a speaker who is not known."""

  key = fingerprint = "clips"

  def __len__(self):
    return 7

  def __getitem__(self, index):
    if index >= len(self):
      raise IndexError(index)
    return SpeechExample(
      waveform=np.full(1280 * (index + 2), index, np.int16),
      transcript=TEXTS[index % 4],
      speaker="" if index == 6 else "ab"[index % 2],
      name=f"clip {index}",
    )


class Coder:
  """Gives clip i its own codes and voice, and counts its calls."""

  fingerprint, shape = "coder", SHAPE

  def __init__(self):
    self.calls = 0

  def __call__(self, waveforms):
    self.calls += 1
    return [Encoded(codes(int(w[0]), len(w) // 1280), voice(int(w[0]))) for w in waveforms]


@pytest.fixture(scope="module")
def words():
  return train_tokenizer(list(TEXTS) * 3, vocab_size=330)


@pytest.fixture(scope="module")
def coded(tmp_path_factory):
  return coded_speech(Clips(), Coder(), data_dir=tmp_path_factory.mktemp("codes"))


def rows(words, coded, *, length: int = LENGTH, bpe_dropout: float = 0.0, **changed) -> SpeechRows:
  config = SpeechDataConfig(folders=(SpeechFolder(path="clips"),), **changed)
  return SpeechRows([coded], words, SHAPE, config, length=length, seed=3, bpe_dropout=bpe_dropout)


def example(made, number: int = 1):
  """(row, codes, voice) of one example's positions."""
  at = made.row.example == number
  return jax.tree.map(lambda x: x[at], (made.row, made.sound.codes, made.sound.voice))


def test_a_corpus_is_encoded_once_and_read_back_as_it_was(tmp_path):
  coder = Coder()
  first = coded_speech(Clips(), coder, data_dir=tmp_path)
  again = coded_speech(Clips(), coder, data_dir=tmp_path)
  assert coder.calls == 1 and len(first) == len(again) == 7
  for i in range(7):
    for speech in (first[i], again[i]):
      np.testing.assert_array_equal(speech.codes, codes(i, i + 2))
      np.testing.assert_array_equal(speech.voice, voice(i))
      assert (speech.transcript, speech.name) == (TEXTS[i % 4], f"clip {i}")
  np.testing.assert_array_equal(again.frames, np.arange(2, 9))
  (kept,) = tmp_path.glob("codes/*.npz")
  kept.write_bytes(kept.read_bytes()[:100])  # damaged: encoded again
  coded_speech(Clips(), coder, data_dir=tmp_path)
  assert coder.calls == 2


def test_a_voice_comes_from_another_clip_of_the_speaker(coded):
  rng = np.random.default_rng(0)
  own = {tuple(voice(i)): i for i in range(7)}
  for clip, others in ((0, {2, 4}), (3, {1, 5}), (6, {6})):
    found = {own[tuple(coded.other_voice(clip, rng))] for _ in range(40)}
    assert found == others
  means = coded.voices()
  assert set(means) == {"a", "b"}
  np.testing.assert_allclose(means["b"], np.mean([voice(i) for i in (1, 3, 5)], axis=0))


def test_a_row_depends_on_its_number_alone(words, coded):
  first, second = rows(words, coded), rows(words, coded)
  backwards = [second[i] for i in reversed(range(6))][::-1]
  for i in range(6):
    jax.tree.map(np.testing.assert_array_equal, first[i], backwards[i])
  assert any((first[i].row.token != first[0].row.token).any() for i in range(1, 6))


def test_words_are_spoken_after_a_voice_and_learnt_as_codes_with_their_end(words, coded):
  made = rows(words, coded, tasks=SpeechTasks(listen=0.0))
  for i in range(4):
    row, said, voices = example(made[i])
    text = row.token[row.kind == Kind.TEXT].tolist()
    spoken = [words.encode(t).tolist() for t in TEXTS]
    ends = [SpecialToken.BOA, SpecialToken.EOA, SpecialToken.EOS]
    assert text in [[SpecialToken.BOS, *s, *ends] for s in spoken]
    frames = int((row.kind == Kind.AUDIO).sum())
    clip = frames - 2
    learnt = row.media_weight > 0
    assert learnt.sum() == frames + 1
    wanted = np.concatenate([codes(clip, frames), np.full((1, CODE.levels), CODE.codes)])
    np.testing.assert_array_equal(said[learnt], wanted)
    assert text == [SpecialToken.BOS, *spoken[clip % 4], *ends]
    speaks = row.kind == Kind.VOICE
    assert speaks.sum() == 1 and not voices[~speaks].any()
    same = [v for v in range(7) if v % 2 == clip % 2 and v not in (clip, 6)] if clip < 6 else [6]
    assert any((voices[speaks][0] == voice(v)).all() for v in same)
    assert row.target[row.text_weight > 0].tolist() == ends[:1] + ends[2:]  # of the words none


def test_what_is_heard_is_written_down_in_the_tokenizers_own_words(words, coded):
  made = rows(words, coded, tasks=SpeechTasks(speak=0.0), bpe_dropout=1.0)
  row, said, _ = example(made[0])
  frames = int((row.kind == Kind.AUDIO).sum())
  text = words.encode(TEXTS[(frames - 2) % 4]).tolist()
  brackets = [SpecialToken.BOS, SpecialToken.BOA, SpecialToken.EOA, SpecialToken.SEP]
  assert row.token[row.kind == Kind.TEXT].tolist() == [*brackets, *text, SpecialToken.EOS]
  assert row.target[row.text_weight > 0].tolist() == [*text, SpecialToken.EOS]
  assert not row.media_weight.any()
  np.testing.assert_array_equal(said[row.kind == Kind.AUDIO][:-1], codes(frames - 2, frames)[1:])
  spoken = rows(words, coded, tasks=SpeechTasks(listen=0.0), bpe_dropout=1.0)[0]
  plain = rows(words, coded, tasks=SpeechTasks(listen=0.0))[0]
  count = lambda one: int((example(one)[0].kind == Kind.TEXT).sum())
  assert count(spoken) > count(plain)  # spelled


def test_rows_of_text_pictures_and_speech_have_one_form(words, coded):
  known = [MediaExample(media=media(1), captions=("a red circle",), name="picture")]

  class Pictures(list):
    fingerprint = key = "pictures"

  picture_config = MediaDataConfig(folders=(MediaFolder(path="x", side=16),), slots=SLOTS)
  pictures = MediaRows(
    [Pictures(known)], words, CONFIG.shapes(), picture_config, length=LENGTH, sound=SHAPE
  )
  config = SpeechDataConfig(folders=(SpeechFolder(path="clips"),))
  speech = SpeechRows(
    [coded], words, SHAPE, config, length=LENGTH, shapes=CONFIG.shapes(), slots=SLOTS
  )
  text = RowBuilder(CONFIG.shapes(), SLOTS, length=LENGTH, sound=SHAPE)
  text.add([Text((1, 70, 2))])
  forms = [
    jax.tree.map(lambda x: (x.shape, x.dtype), row)
    for row in (pictures[0], speech[0], text.finish())
  ]
  assert forms[0] == forms[1] == forms[2]
  batch = stack_rows([pictures[0], speech[0], text.finish()])
  assert batch.sound.codes.shape == (3, LENGTH, CODE.levels)
  assert not batch.sound.codes[0].any() and batch.sound.codes[1].any()


def test_a_pipeline_goes_on_at_its_row(words, coded):
  make = lambda one: Pipeline(
    [rows(words, one)], [1.0], rows_per_batch=2, threads=1, names=["config.data.speech"]
  )
  whole, again = make(coded), make(coded)
  wanted = [next(whole) for _ in range(3)]
  state = {**whole.get_state(), "next_row": 4}
  again.set_state(state)
  jax.tree.map(np.testing.assert_array_equal, next(again), wanted[2])
  changed = CodedSpeech(coded._arrays, "clips-another codec")
  with pytest.raises(UserError, match=r"content of config\.data\.speech has changed"):
    make(changed).set_state(state)
  whole.close()
  again.close()


def longest_example(words) -> int:
  """Positions of the longest of the clips with its words, in either form."""
  return max(i + 2 + len(words.encode(Clips()[i].transcript)) + 5 for i in range(7))


def test_a_clip_longer_than_a_row_is_named(words, coded):
  longest = longest_example(words)
  with pytest.raises(UserError, match=rf"a clip of \d frames.*row_length \({longest - 1}\)"):
    rows(words, coded, length=longest - 1)
  with pytest.raises(UserError, match=r"clip 0: a clip of 2 frames with \d+ ids of words"):
    rows(words, coded, length=7)
  made = rows(words, coded, length=longest)
  filled = [(made[i].row.example == 1).sum() for i in range(40)]
  assert max(filled) == longest


def test_a_clip_whose_words_are_spelled_may_be_longer_than_a_row(words, coded):
  length = longest_example(words)
  spelled = rows(words, coded, length=length, bpe_dropout=1.0, tasks=SpeechTasks(listen=0.0))
  with pytest.raises(UserError, match=r"clip \d does not fit into a row: raise .*row_length"):
    [spelled[i] for i in range(40)]


def test_task_weights_must_say_something():
  with pytest.raises(ValueError, match="not all 0"):
    SpeechTasks(speak=0.0, listen=0.0)
