"""Listening and speaking judged: a whole model at work, recordings and their reconstruction in its place, the sheet."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from PIL import Image
from small_speech import MODEL, clear_params

from ernie_jax import config as config_lib
from ernie_jax.audio.codec import CodecConfig, EncoderConfig, initial_params
from ernie_jax.audio.decoders import DecoderConfig
from ernie_jax.audio.quantizer import RvqConfig, fresh_codebooks
from ernie_jax.data.speech_rows import SpeechDataConfig
from ernie_jax.data.world.speech import TRAINING_SPEAKERS, UNSEEN_SPEAKERS
from ernie_jax.data.world.speech_set import SpeechSource
from ernie_jax.elastic.family import ElasticConfig
from ernie_jax.errors import UserError
from ernie_jax.evaluate import __main__ as command
from ernie_jax.evaluate import report as report_lib
from ernie_jax.evaluate.judged import FLOOR
from ernie_jax.evaluate.media_table import MediaReport, SpeechMember
from ernie_jax.evaluate.oracles.speech import FitConfig, SpeechOracle, fit_oracle
from ernie_jax.evaluate.sheet import WIDTH
from ernie_jax.evaluate.speech import evaluate_spoken, speaking_of
from ernie_jax.evaluate.speech_makers import Rebuilt, Streaming, Studio, Truth
from ernie_jax.evaluate.speech_prompts import SPLITS, TASKS, make_prompts
from ernie_jax.evaluate.speech_scores import SHOWN, Ear, SpeechJudge
from ernie_jax.generate.speak import SpeakingConfig
from ernie_jax.speech import VOICE, Speech
from ernie_jax.text.tokenizer import train_tokenizer
from ernie_jax.train.model_io import SavedModel, save_model

FULL, SMALL = "2x4x2", "2x2x1"
LISTEN, SPEAK = TASKS
NARROW = dict(width=8, blocks=1, frame_width=8, frame_blocks=1)
CODEC = CodecConfig(
  quantizer=RvqConfig(levels=2, codes=6, width=8, semantic_width=4),
  encoder=EncoderConfig(**NARROW),
  decoder=DecoderConfig(**NARROW),
)
DATA = SpeechDataConfig(worlds=(SpeechSource(),))
LOSSES = MediaReport((SpeechMember(FULL, 10, 1.0, 0.5),), rows=2, step=7)
SPOKEN = ["word_error", "phone_error", "pitch_median", "pitch_off", "speaker_error"]
SPOKEN += ["duration_error"]


@pytest.fixture(scope="module", autouse=True)
def compiled_quickly():
  """What runs a few times only."""
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def oracle() -> SpeechOracle:
  return fit_oracle(FitConfig(utterances=64))


@pytest.fixture(scope="module")
def saved() -> SavedModel:
  """An untrained family whose parameters all matter."""
  texts = [p.text for many in make_prompts(DATA, 3).values() for p in many]
  tokenizer = train_tokenizer(texts, vocab_size=330)
  audio = dataclasses.replace(MODEL.audio, levels=2, voice=VOICE)
  shape = {"depth": 2, "top_layers": 2, "vocab_size": tokenizer.vocab_size}
  model = dataclasses.replace(MODEL, audio=audio, **shape)
  params = jax.tree.map(np.asarray, clear_params(model))
  books = fresh_codebooks(CODEC.quantizer, jax.random.key(1))
  codec = jax.jit(lambda: initial_params(CODEC, jax.random.key(0)))()
  codec = jax.tree.map(np.asarray, codec)
  return SavedModel(
    config={
      "data": {"row_length": 64, "sources": (), "speech": config_lib.to_dict(DATA)},
      "evaluation": {"prompt": ""},
    },
    model=model,
    elastic=ElasticConfig(min_depth=2, members=(SMALL,)),
    params=params,
    bias=np.zeros((2, 4), np.float32),
    usage=np.arange(8, dtype=np.float32).reshape(2, 4),
    tokenizer=tokenizer,
    step=7,
    speech=Speech(CODEC, codec, np.asarray(books.vectors)),
  )


class Named(Truth):
  """The recordings in the place of a member."""

  name = FULL


@pytest.fixture(scope="module")
def of_truth(saved, oracle):
  return evaluate_spoken(saved, makers=[Named(Ear(oracle))], prompts=8, oracle=oracle)


@pytest.fixture(scope="module")
def of_model(saved, oracle):
  """Both members."""
  return evaluate_spoken(saved, prompts=2, oracle=oracle)


def test_recordings_in_the_place_of_a_model_are_right(of_truth):
  assert list(of_truth.scores) == list(SPLITS)
  for tasks in of_truth.scores.values():
    heard, spoken = tasks[LISTEN.name], tasks[SPEAK.name]
    assert list(heard) == ["word_error", "letter_error"] and list(spoken) == SPOKEN
    for column in (FULL, "truth"):
      assert heard["word_error"][column] == spoken["word_error"][column] == 0
      assert heard["letter_error"][column] == 0 and spoken["phone_error"][column] <= 0.02
      assert spoken["pitch_median"][column] < 0.3 and spoken["pitch_off"][column] == 0
      assert spoken["speaker_error"][column] <= 0.15 and spoken["duration_error"][column] < 0.2


def test_recordings_judged_by_other_prompts_are_wrong(of_truth):
  for tasks in of_truth.scores.values():
    assert tasks[LISTEN.name]["word_error"][FLOOR] >= 0.9
    spoken = {name: values[FLOOR] for name, values in tasks[SPEAK.name].items()}
    assert spoken["word_error"] >= 0.9 and spoken["phone_error"] >= 0.5
    assert spoken["pitch_median"] > 1 and spoken["pitch_off"] > 0.4
    assert spoken["speaker_error"] >= 0.7 and spoken["duration_error"] > 0.1


def test_the_clip_that_shows_the_voice_has_the_right_voice_and_the_wrong_words(of_truth):
  for tasks in of_truth.scores.values():
    spoken = {name: values["reference"] for name, values in tasks[SPEAK.name].items()}
    assert spoken["word_error"] >= 0.9 and spoken["speaker_error"] <= 0.15
    assert spoken["pitch_median"] < 0.3 and spoken["pitch_off"] == 0
    assert "reference" not in tasks[LISTEN.name]["word_error"]


def test_every_member_hears_and_speaks_beside_floor_and_ceilings(of_model):
  assert of_model.columns == (FULL, SMALL, FLOOR, "reference", "rebuilt", "truth")
  for tasks in of_model.scores.values():
    assert list(tasks) == [LISTEN.name, SPEAK.name]
    assert list(tasks[SPEAK.name])[:2] == SPOKEN[:2]
    for attributes in tasks.values():
      assert {FULL, SMALL, FLOOR, "rebuilt", "truth"} <= set(attributes["word_error"])
      assert attributes["word_error"][FULL] > 0.5 and attributes["word_error"]["truth"] == 0
  for member in (FULL, SMALL):
    assert set(of_model.per_second[member]) == {LISTEN.name, SPEAK.name}
    one = of_model.streaming[member]
    assert one.first_ms > 0 and one.stall_ms >= 0 and one.real_time_factor > 0


def test_the_table_is_aligned_and_its_json_has_every_figure(of_model):
  table = of_model.to_text().splitlines()
  head = table[0]
  assert head.split() == list(of_model.columns)
  row = next(line for line in table if line.startswith("text -> speech: word_error"))
  assert len(row) == len(head) and row.endswith("0.000")
  last = next(line for line in table if line.startswith("seconds a second of sound"))
  assert len(last.split()[-2:]) == 2 and "temperature 0.25" in table[-3]
  values = json.loads(json.dumps(of_model.to_json()))
  assert values["scores"] == of_model.scores and values["prompts"] == 2
  assert "shown" not in values and values["speaking"]["temperature"] == 0.25
  assert set(values["streaming"][SMALL]) == {"first_ms", "stall_ms", "real_time_factor"}


def test_the_sheet_has_a_spectrogram_and_the_words_of_every_output(of_truth, of_model, tmp_path):
  of_truth.write_sheet(tmp_path / "sheet.png")
  picture = Image.open(tmp_path / "sheet.png")
  assert len(of_truth.shown) == len(SPLITS) * 2 * SHOWN
  assert picture.width == WIDTH and picture.height > len(SPLITS) * 2 * 2 * 128
  heard, spoken = of_truth.shown[0], of_truth.shown[SHOWN]
  assert heard.section == "speech -> text, seen voices and pairs of words" and heard.right
  assert spoken.section == "text -> speech, seen voices and pairs of words" and spoken.right
  said, read = spoken.words.splitlines()
  assert said.startswith("said: ") and read.startswith("heard: ")
  assert spoken.media.shape == (1, 128, 276, 3) and spoken.media.std() > 20
  assert 4 * (spoken.media.shape[2] + 28) <= WIDTH
  assert not any(one.right for one in of_model.shown)


def test_prompts_of_the_splits_differ_as_their_names_say():
  asked = make_prompts(DATA, 4)
  for split, prompts in asked.items():
    voices = UNSEEN_SPEAKERS if split == "unseen_speakers" else TRAINING_SPEAKERS
    for prompt in prompts:
      assert prompt.utterance.speaker in voices
      assert prompt.utterance.unseen_pair == (split == "unseen_pairs")
      assert len(prompt.reference) and not np.array_equal(prompt.reference, prompt.waveform)
  again = make_prompts(DATA, 2)
  for split, prompts in again.items():
    for one, other in zip(prompts, asked[split]):
      np.testing.assert_array_equal(one.reference, other.reference)


def test_one_prompt_alone_has_no_floor_but_is_scored_and_text_may_be_anything(oracle):
  (prompt,) = make_prompts(DATA, 1)["validation"]
  judge = SpeechJudge(Ear(oracle))
  assert judge.floor(LISTEN, [prompt.text], [prompt]) == {}
  assert judge.score(LISTEN, [prompt.text.upper()], [prompt])["word_error"] == 0
  assert judge.score(LISTEN, [""], [prompt]) == {"word_error": 1, "letter_error": 1}
  twice = judge.score(LISTEN, [f"{prompt.text} {prompt.text} nama"], [prompt])
  assert twice["word_error"] > 1
  silent = judge.score(SPEAK, [np.zeros(16_000, np.float32)], [prompt])
  assert silent["word_error"] == silent["phone_error"] == silent["speaker_error"] == 1
  assert "pitch_median" not in silent


def test_no_waveform_is_read_twice(oracle):
  prompts = make_prompts(DATA, 2)["validation"]
  waves = [p.waveform.astype(np.float32) / 32768 for p in prompts]
  asked = []

  class Counting:
    def read(self, waveforms):
      asked.append(len(waveforms))
      return oracle.read(waveforms)

  ear = Ear(Counting())
  first = ear.read([*waves, waves[0]])
  assert ear.read(waves[::-1]) == first[1::-1] and asked == [2, 0]
  assert [one.words for one in first[:2]] == [p.utterance.words for p in prompts]


def test_the_report_of_a_run_has_scores_and_sheet_beside_its_losses(
  saved, oracle, tmp_path, monkeypatch, capsys
):
  data = {**saved.config["data"], "data_dir": str(tmp_path / "data")}
  asked = {**saved.config, "data": data, "evaluation": {"prompts": 2, "prompt": ""}}
  save_model(tmp_path / "run", dataclasses.replace(saved, config=asked))
  ear = Ear(oracle)
  monkeypatch.setattr(SpeechOracle, "load", lambda folder: oracle)
  monkeypatch.setattr(report_lib, "evaluate_speech", lambda saved, members, rows: LOSSES)
  monkeypatch.setattr(report_lib, "write_figure", lambda *_: None)
  truth = lambda self, task, prompts, *_: Truth(ear).make(task, prompts, id)
  monkeypatch.setattr(Studio, "run", truth)
  monkeypatch.setattr(Rebuilt, "make", lambda *_: None)
  monkeypatch.setattr(Studio, "stream", lambda self, *_: Streaming(120.0, 0.0, 0.5))
  part = report_lib.report(
    tmp_path / "run",
    prompts=3,
    members=[SMALL],
    sheet=tmp_path / "sheet.png",
    speak_temperature=1.0,
  )
  assert part.spoken.speaking == SpeakingConfig(temperature=1.0)
  assert part.spoken.columns[:2] == (FULL, SMALL) and part.vision is None
  assert (tmp_path / "sheet.png").exists() and not list((tmp_path / "run").glob("speech*"))
  found = report_lib.report(tmp_path / "run")
  values = json.loads((tmp_path / "run" / "speech.json").read_text())
  assert values == json.loads(json.dumps(found.spoken.to_json())) == found.to_json()["spoken"]
  assert values["prompts"] == 2 and values["columns"][:2] == [FULL, FLOOR]
  assert Image.open(tmp_path / "run" / "speech.png").width == WIDTH
  family = json.loads((tmp_path / "run" / "family.json").read_text())
  assert family == {"speech": LOSSES.to_json()}
  printed = capsys.readouterr().out
  assert "text -> speech: word_error" in printed and "first sound, ms" in printed
  assert report_lib.report(tmp_path / "run", prompts=0).spoken is None


def test_models_without_utterances_of_the_world_are_not_asked(saved):
  assert evaluate_spoken(dataclasses.replace(saved, config={})) is None
  assert evaluate_spoken(dataclasses.replace(saved, speech=None)) is None
  with pytest.raises(ValueError, match="prompts"):
    evaluate_spoken(saved, prompts=0)


@pytest.mark.parametrize(
  ("values", "message"),
  [
    (dict(prompts=2), "--prompts: the model in .* has neither vision nor audio"),
    (dict(sheet="sheet.png"), "--sheet: the model in .* has neither vision nor audio"),
    (dict(sheet="missing/sheet.png"), "--sheet: there is no directory missing"),
    (dict(prompts=-1), "--prompts must not be negative"),
  ],
)
def test_mistakes_of_the_command_are_one_line(saved, tmp_path, values, message):
  plain = dict(model={}, elastic={})
  (tmp_path / "config.json").write_text(json.dumps(plain))
  flags.FLAGS.mark_as_parsed()
  said = flagsaver.flagsaver(workdir=str(tmp_path), **values)
  with said, pytest.raises(UserError, match=message) as raised:
    command.main([])
  assert "\n" not in str(raised.value)


@pytest.mark.parametrize("temperature", [-1.0, float("nan")])
def test_a_temperature_out_of_range_names_its_flag(temperature):
  with pytest.raises(UserError, match="--speak_temperature must be 0 or more"):
    speaking_of(temperature=temperature)
