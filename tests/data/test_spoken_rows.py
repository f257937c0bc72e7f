"""Rows in which pictures, text and speech stand together: their forms, and that they follow from their number."""

import dataclasses

import jax
import numpy as np
import pytest
from small_speech import CODE, SHAPE, codes, voice
from small_vision import CONFIG

from ernie_jax.data.media_records import MediaExamples
from ernie_jax.data.media_rows import MediaDataConfig, MediaRows, open_media
from ernie_jax.data.media_tasks import parts
from ernie_jax.data.pipeline import DataConfig, held_out_media, training_pipeline
from ernie_jax.data.spoken_scenes import open_spoken
from ernie_jax.data.world import scenes
from ernie_jax.data.world.pronounce import pronounce
from ernie_jax.data.world.scene_sampling import SceneConfig
from ernie_jax.data.world.scenes import WorldSource
from ernie_jax.data.world.speech import FRAMES_PER_CODE, HOP, TRAINING_SPEAKERS, utterance_from_json
from ernie_jax.data.world.spoken import Recordings, SpokenSource
from ernie_jax.errors import UserError
from ernie_jax.sequence import Kind, SlotsConfig, SpecialToken
from ernie_jax.speech import Encoded
from ernie_jax.text.tokenizer import train_tokenizer

LENGTH = 400
STRIDE = HOP * FRAMES_PER_CODE
WORLD = WorldSource(
  scene=SceneConfig(max_objects=2), train=12, validation=3, held_out=2, documents=1.0
)
SPOKEN = SpokenSource(scenes=WORLD, recorded=8, documents=0.5)
SLOTS = SlotsConfig(drawn_images=3, seen_images=3)
BOS, EOS, SEP = SpecialToken.BOS, SpecialToken.EOS, SpecialToken.SEP
SEEN, HEARD = [SpecialToken.BOI, SpecialToken.EOI], [SpecialToken.BOA, SpecialToken.EOA]


class Coder:
  """Codes that follow from a clip's first loud samples; counts its calls."""

  fingerprint, shape = "coder", SHAPE

  def __init__(self):
    self.calls = 0

  def __call__(self, waveforms):
    self.calls += 1
    seeds = [int(np.abs(w.astype(np.int64)).sum()) for w in waveforms]
    return [
      Encoded(codes(seed, len(w) // STRIDE), voice(seed)) for w, seed in zip(waveforms, seeds)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def spoken(folder):
  (opened,) = open_spoken([SPOKEN], "train", Coder(), data_dir=folder)
  return opened


@pytest.fixture(scope="module")
def words():
  return train_tokenizer(
    ["What shape is red? circle", "a large ring is at the top"], vocab_size=330
  )


def data(**changed) -> MediaDataConfig:
  return MediaDataConfig(worlds=(WORLD,), spoken=(SPOKEN,), slots=SLOTS, **changed)


def rows(words, folder, spoken, **changed) -> MediaRows:
  """Rows of what is spoken about alone."""
  one = dataclasses.replace(SPOKEN, weight=1e9, **changed)
  config = dataclasses.replace(data(), spoken=(one,))
  opened = open_media(config, "train", data_dir=folder)
  return MediaRows(
    opened, words, CONFIG.shapes(), config, length=LENGTH, seed=3, sound=SHAPE, spoken=[spoken]
  )


def examples(made):
  """(row, codes, voice) of the positions of each example."""
  for number in range(1, made.row.example.max() + 1):
    at = made.row.example == number
    yield jax.tree.map(lambda x, at=at: x[at], (made.row, made.sound.codes, made.sound.voice))


def texts(row) -> list[int]:
  return row.token[row.kind == Kind.TEXT].tolist()


def test_a_question_is_recorded_of_every_picture_and_all_texts_of_its_document(folder):
  made = Recordings(MediaExamples(scenes.prepare(WORLD, folder), "train"), SPOKEN)
  pictures = [made._examples[i] for i in range(8)]
  wanted = [1 + sum(map(bool, p.document.texts)) for p in pictures]
  assert len(made) == sum(wanted) and len(set(wanted)) > 1
  speakers = {}
  for clip in made:
    said = utterance_from_json(clip.utterance)
    assert said.words == pronounce(clip.transcript) and said.speaker in TRAINING_SPEAKERS
    assert clip.speaker == str(said.speaker)
    speakers.setdefault(clip.name, set()).add(clip.speaker)
  assert list(speakers) == [p.name for p in pictures] and all(
    len(s) == 1 for s in speakers.values()
  )
  assert len(set.union(*speakers.values())) > 3
  again = Recordings(made._examples, SPOKEN)
  np.testing.assert_array_equal(made[5].waveform, again[5].waveform)
  assert again.key == made.key and again.fingerprint == made.fingerprint
  other = Recordings(made._examples, dataclasses.replace(SPOKEN, seed=1))
  assert other.key != made.key and not np.array_equal(other[0].waveform, made[0].waveform)
  louder = dataclasses.replace(SPOKEN, weight=2.0, documents=0.7)  # the recordings are the same
  assert Recordings(made._examples, louder).key == made.key
  few = Recordings(made._examples, dataclasses.replace(SPOKEN, documents=0.0))
  assert len(few) == 8 and few.key != made.key


def test_recordings_go_through_the_codec_once(folder, spoken):
  coder = Coder()
  (again,) = open_spoken([SPOKEN], "train", coder, data_dir=folder)
  assert coder.calls == 0 and len(again) == len(spoken) == 8
  for one, other in zip(again, spoken):
    np.testing.assert_array_equal(one.asked, other.asked)
    assert one.question == other.question and one.question in one.example.questions
    assert list(one.texts) == [text for text in one.example.document.texts if text]


def test_a_heard_question_is_written_down_and_answered(words, folder, spoken):
  known = {scene.asked.tobytes(): scene for scene in spoken}
  made = rows(words, folder, spoken, documents=0.0)[0]
  seen = iter(made.seen[0])
  count = 0
  for row, said, voices in examples(made):
    frames = said[row.kind == Kind.AUDIO]
    before = said[np.flatnonzero(row.kind == Kind.AUDIO)[0] - 1]  # BOA's: the first frame
    scene = known[np.concatenate([before[None], frames[:-1]]).tobytes()]
    assert (frames[-1] == CODE.codes).all()
    turn = scene.question.question, scene.question.answer
    asked, answer = (words.encode(text).tolist() for text in turn)
    assert texts(row) == [BOS, *SEEN, SEP, *HEARD, SEP, *asked, SEP, *answer, EOS]
    kinds = row.kind[row.kind != Kind.TEXT].tolist()
    area = int(np.prod(CONFIG.shapes().grid))
    assert kinds == [Kind.VISION_CONTEXT] * area + [Kind.AUDIO] * len(frames)
    told = row.target[row.text_weight > 0].tolist()
    assert told == [*asked, SEP, *answer, EOS] and parts(told) == [asked, [*answer, EOS]]
    assert not row.media_weight.any() and not voices.any()
    np.testing.assert_array_equal(next(seen), scene.example.media)
    count += 1
  assert count > 1


def test_some_texts_of_a_document_are_heard_and_a_last_one_is_spoken(words, folder, spoken):
  made = rows(words, folder, spoken, documents=1.0)
  heard = written = spoke = 0
  for number in range(12):
    for row, said, voices in examples(made[number]):
      clips = int((row.token == SpecialToken.BOA).sum())
      assert clips > 0
      learnt = row.media_weight * ((row.kind == Kind.AUDIO) | (row.token == SpecialToken.BOA)) > 0
      speaks = row.kind == Kind.VOICE
      drawn = (row.kind == Kind.VISION_TARGET).any()
      assert speaks.sum() == (learnt.any()) and not (drawn and learnt.any())
      heard += clips - int(speaks.sum())
      spoke += int(speaks.sum())
      plain = [t for t in texts(row) if t not in set(SpecialToken)]
      written += bool(plain)
      assert texts(row)[0] == BOS and texts(row)[-1] == EOS
      if speaks.any():  # `[voice] BOA frames EOA EOS` at the end, learnt with its end
        assert texts(row)[-3:] == [*HEARD, EOS] and voices[speaks].any()
        assert (said[learnt][-1] == CODE.codes).all()
        assert row.target[speaks] == SpecialToken.BOA
  assert heard > 3 and written > 3 and spoke > 1


def test_a_row_depends_on_its_number_alone(words, folder, spoken):
  first, second = rows(words, folder, spoken), rows(words, folder, spoken)
  backwards = [second[i] for i in reversed(range(4))][::-1]
  for i in range(4):
    jax.tree.map(np.testing.assert_array_equal, first[i], backwards[i])


def test_without_spoken_sources_rows_are_as_they_were(words, folder, spoken, monkeypatch):
  config = dataclasses.replace(data(), spoken=())
  opened = open_media(config, "train", data_dir=folder)
  plain = MediaRows(opened, words, CONFIG.shapes(), config, length=LENGTH, seed=3)
  now = rows(words, folder, spoken).fingerprint
  assert plain.fingerprint != now
  monkeypatch.setattr(MediaRows, "form", MediaRows.form + 1)
  assert rows(words, folder, spoken).fingerprint != now  # nor are rows of another form the same
  assert plain[0].sound is None


def test_a_pipeline_goes_on_at_its_row(words, folder):
  config = DataConfig(
    sources=(), media=data(), row_length=LENGTH, rows_per_batch=2, threads=1, data_dir=str(folder)
  )
  make = lambda config=config: training_pipeline(
    config, words, shapes=CONFIG.shapes(), coder=Coder()
  )
  whole, again = make(), make()
  wanted = [next(whole) for _ in range(3)]
  again.set_state({**whole.get_state(), "next_row": 4})
  jax.tree.map(np.testing.assert_array_equal, next(again), wanted[2])
  assert wanted[0].sound.codes.shape == (2, LENGTH, CODE.levels)
  other = dataclasses.replace(data(), spoken=(dataclasses.replace(SPOKEN, seed=2),))
  with pytest.raises(UserError, match=r"content of config\.data\.media has changed"):
    make(dataclasses.replace(config, media=other)).set_state(whole.get_state())
  whole.close()
  again.close()
  held_out = held_out_media(config, words, CONFIG.shapes(), rows=2, coder=Coder())
  assert held_out.sound.codes.shape == (2, LENGTH, CODE.levels)


def test_what_cannot_be_is_told():
  with pytest.raises(ValueError, match="must be pictures"):
    SpokenSource(scenes=WorldSource(scene=SceneConfig(frames=9)))
  with pytest.raises(ValueError, match="no picture has one"):
    SpokenSource(scenes=WorldSource(documents=0.0), documents=0.1)
  with pytest.raises(ValueError, match="nothing to be judged by; set its judged to False"):
    MediaDataConfig(worlds=(dataclasses.replace(WORLD, captions=0),))
  with pytest.raises(ValueError, match="spoken stands beside"):
    MediaDataConfig(spoken=(SPOKEN,))
  with pytest.raises(ValueError, match="the world's spoken questions has 64"):
    MediaDataConfig(worlds=(WORLD,), spoken=(SpokenSource(scenes=WorldSource(side=64)),))
