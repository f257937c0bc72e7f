"""Drawing and reading judged: a whole model at work, the truth and its reconstruction in its place, and the sheet."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image
from small_vision import MODEL, clear_params

from ernie_jax import config as config_lib
from ernie_jax.audio.codec import CodecConfig, EncoderConfig
from ernie_jax.audio.codec import initial_params as initial_codec
from ernie_jax.audio.decoders import DecoderConfig
from ernie_jax.audio.quantizer import RvqConfig, fresh_codebooks
from ernie_jax.backbone.config import AudioConfig
from ernie_jax.data.media_rows import MediaDataConfig
from ernie_jax.data.world.questions import KINDS
from ernie_jax.data.world.scene_sampling import SceneConfig
from ernie_jax.data.world.scenes import WorldSource
from ernie_jax.data.world.spoken import SpokenSource
from ernie_jax.elastic.family import ElasticConfig, parse_member
from ernie_jax.errors import UserError
from ernie_jax.evaluate import report as report_lib
from ernie_jax.evaluate import vision as vision_lib
from ernie_jax.evaluate.media_table import MediaMember, MediaReport
from ernie_jax.evaluate.sheet import WIDTH, Shown, draw_sheet, write_sheet
from ernie_jax.evaluate.vision import evaluate_vision
from ernie_jax.evaluate.vision_makers import Studio, Truth
from ernie_jax.evaluate.vision_prompts import HEARD, SCENES, SPLITS, TASKS, make_prompts
from ernie_jax.evaluate.vision_scores import Reader, floor
from ernie_jax.generate.decode import Decoder, Generated
from ernie_jax.generate.draw import DrawingConfig
from ernie_jax.media import MediaConfig, Vision
from ernie_jax.sequence import SlotsConfig, SpecialToken
from ernie_jax.speech import VOICE, Speech
from ernie_jax.text.tokenizer import train_tokenizer
from ernie_jax.train.model_io import SavedModel, save_model
from ernie_jax.vision.quantizer import QuantizerConfig
from ernie_jax.vision.tokenizer import TokenizerConfig, initial_params
from ernie_jax.vision.understand import UnderstandConfig
from ernie_jax.vision.vit import VitConfig

FULL, HALF = "1x4x2", "1x2x1"
NARROW = dict(width=8, blocks=1, frame_width=8, frame_blocks=1)
NAMES = [task.name for task in TASKS]
CODE = QuantizerConfig(sides=(1, 2), bits=4)
VIT = VitConfig(patch=16, grid=(2, 2), depth=1, width=8, heads=2, mlp_width=16)
WORLDS = (
  WorldSource(scene=SceneConfig(max_objects=2)),
  WorldSource(scene=SceneConfig(max_objects=2, frames=9)),
)
MEDIA = MediaReport((MediaMember(FULL, 10, 1.0, 0.5),), rows=2, step=7)


@pytest.fixture(scope="module")
def saved() -> SavedModel:
  """An untrained family of 32 px whose parameters all matter."""
  config = MediaConfig(
    TokenizerConfig(quantizer=CODE, patch=16, widths=(8,), blocks=1, temporal=4),
    UnderstandConfig(vit=VIT, heads=2),
  )
  data = MediaDataConfig(worlds=WORLDS, slots=SlotsConfig(drawn_videos=1))
  asked = make_prompts(data, 20)
  texts = [t for many in asked.values() for p in many for t in (p.caption, p.question.question)]
  tokenizer = train_tokenizer(texts, vocab_size=400)
  model = dataclasses.replace(MODEL, depth=1, vocab_size=tokenizer.vocab_size, vision=CODE)
  frozen = jax.jit(lambda: initial_params(config.tokenizer, jax.random.key(1)))()
  vision = Vision(config, jax.tree.map(np.asarray, frozen))
  return SavedModel(
    config={
      "data": {"sources": (), "media": config_lib.to_dict(data)},
      "vision": {"understand": config_lib.to_dict(config.understand)},
      "evaluation": {"guidance": 3.0},
    },
    model=model,
    elastic=ElasticConfig(members=(HALF,)),
    params=jax.tree.map(np.asarray, clear_params(frozen, model, vision)),
    bias=np.zeros((1, 4), np.float32),
    usage=np.arange(4, dtype=np.float32)[None],
    tokenizer=tokenizer,
    step=7,
    vision=vision,
  )


@pytest.fixture(scope="module")
def hearing(saved) -> SavedModel:
  """The same with audio, trained on pictures that are spoken about."""
  codec = CodecConfig(
    quantizer=RvqConfig(levels=1, codes=6, width=8, semantic_width=4),
    encoder=EncoderConfig(**NARROW),
    decoder=DecoderConfig(**NARROW),
  )
  books = fresh_codebooks(codec.quantizer, jax.random.key(1))
  params = jax.jit(lambda: initial_codec(codec, jax.random.key(0)))()
  audio = AudioConfig(levels=1, codes=6, voice=VOICE)
  model = dataclasses.replace(saved.model, audio=audio, top_layers=1)
  media = MediaDataConfig(
    worlds=WORLDS[:1], slots=SlotsConfig(), spoken=(SpokenSource(scenes=WORLDS[0]),)
  )
  return dataclasses.replace(
    saved,
    config={**saved.config, "data": {"sources": (), "media": config_lib.to_dict(media)}},
    model=model,
    params=jax.tree.map(np.asarray, clear_params(saved.vision.tokenizer, model, saved.vision)),
    speech=Speech(codec, jax.tree.map(np.asarray, params), np.asarray(books.vectors)),
  )


class Named(Truth):
  """The truth in the place of a member."""

  name = FULL


@pytest.fixture(scope="module")
def of_truth(saved):
  return evaluate_vision(saved, makers=[Named()], prompts=6)


@pytest.fixture(scope="module")
def of_model(saved):
  """Both members; what runs a few times is compiled quickly."""
  jax.config.update("jax_disable_most_optimizations", True)
  yield evaluate_vision(saved, prompts=2)
  jax.config.update("jax_disable_most_optimizations", False)


def test_the_truth_in_the_place_of_a_model_is_right_in_everything(of_truth):
  assert list(of_truth.scores) == list(SCENES)
  for tasks in of_truth.scores.values():
    assert list(tasks) == NAMES
    for task, attributes in tasks.items():
      assert next(iter(attributes)) == next(t.headline for t in TASKS if t.name == task)
      for values in attributes.values():
        assert values[FULL] == 1 and values["truth"] == 1


def test_the_truth_of_other_prompts_is_right_in_almost_nothing(of_truth):
  for tasks in of_truth.scores.values():
    for task in TASKS:
      if task.form != "answer":  # the floor of questions is the best answer that sees nothing
        assert tasks[task.name][task.headline]["floor"] <= 0.1, task


def test_a_held_frame_has_its_objects_and_no_direction(of_truth):
  for tasks in of_truth.scores.values():
    for name in ("text -> video", "picture -> video"):
      assert tasks[name]["direction"]["static"] == 0
      assert tasks[name]["objects"]["static"] == 1
    assert "static" not in tasks["text -> picture"]["all_correct"]


def test_every_member_draws_and_reads_beside_floor_and_ceilings(of_model):
  assert of_model.columns == (FULL, HALF, "floor", "static", "rebuilt", "truth")
  for tasks in of_model.scores.values():
    for task in TASKS:
      values = tasks[task.name][task.headline]
      assert {FULL, HALF, "floor", "truth"} <= set(values)
      assert ("rebuilt" in values) == task.draws
  for member in (FULL, HALF):
    assert set(of_model.per_second[member]) == set(NAMES)
  assert of_model.drawing.guidance == 3 and of_model.step == 7 and of_model.seconds > 0


def test_the_table_is_aligned_and_its_json_has_every_figure(of_model):
  table = of_model.to_text().splitlines()
  head = table[0]
  assert head.split() == list(of_model.columns)
  row = next(line for line in table if line.startswith("text -> picture: all_correct"))
  assert len(row) == len(head) and row.endswith("1.000")
  values = json.loads(json.dumps(of_model.to_json()))
  assert values["scores"] == of_model.scores and values["prompts"] == 2
  assert "shown" not in values and values["drawing"]["guidance"] == 3


def test_the_sheet_has_all_that_was_shown_at_its_size(of_model, tmp_path):
  of_model.write_sheet(tmp_path / "sheet.png")
  picture = Image.open(tmp_path / "sheet.png")
  assert picture.size[0] == WIDTH and picture.size[1] > 14 * 128
  assert len(of_model.shown) == 2 * 2 * len(TASKS)
  assert [one.section for one in of_model.shown[:3:2]] == [
    "text -> picture, seen combinations", "picture -> caption, seen combinations"
  ]  # fmt: skip


def test_the_report_of_a_run_has_scores_and_sheet_beside_its_losses(
  saved, tmp_path, monkeypatch, capsys
):
  # The second member is of a larger model that this one could be sliced out of.
  evaluation = {"prompts": 2, "guidance": 1.5, "prompt": "", "members": [HALF, "1x8x2"]}
  asked = dataclasses.replace(saved, config={**saved.config, "evaluation": evaluation})
  save_model(tmp_path / "run", asked)
  monkeypatch.setattr(report_lib, "evaluate_media", lambda saved, members, rows: MEDIA)
  monkeypatch.setattr(
    Studio, "run", lambda self, task, prompts, *_: Truth().make(task, prompts, id)
  )
  monkeypatch.setattr(report_lib, "write_figure", lambda *_: None)
  part = report_lib.report(
    tmp_path / "run", prompts=3, members=[HALF], sheet=tmp_path / "sheet.png", guidance=4.0
  )
  assert part.vision.drawing.guidance == 4 and part.vision.columns[1] == HALF
  assert (tmp_path / "sheet.png").exists() and not list((tmp_path / "run").glob("vision*"))
  found = report_lib.report(tmp_path / "run")
  values = json.loads((tmp_path / "run" / "vision.json").read_text())
  assert values == json.loads(json.dumps(found.vision.to_json())) == found.to_json()["vision"]
  assert values["prompts"] == 2 and values["columns"][:3] == [FULL, HALF, "floor"]
  assert values["drawing"]["guidance"] == 1.5
  assert Image.open(tmp_path / "run" / "vision.png").width == WIDTH
  assert "vision" not in json.loads((tmp_path / "run" / "family.json").read_text())
  assert "text -> picture: all_correct" in capsys.readouterr().out
  assert report_lib.report(tmp_path / "run", prompts=0).vision is None
  with pytest.raises(UserError, match="--draw_guidance must be"):
    report_lib.report(tmp_path / "run", guidance=-1.0)


def test_cells_wrap_and_right_and_wrong_have_their_colours(tmp_path):
  grey = np.full((1, 32, 32, 3), 128, np.uint8)
  cells = [Shown("a", grey, "words " * 20, i != 1) for i in range(9)]
  sheet = np.asarray(draw_sheet(cells))
  lower = np.asarray(draw_sheet(cells[:8]))
  assert sheet.shape[1] == WIDTH and sheet.shape[0] > lower.shape[0] + 128
  green, red = (np.all(lower == colour, axis=-1) for colour in ((40, 150, 60), (205, 40, 40)))
  assert np.any(green[:, :156]) and not np.any(red[:, :156])
  assert np.any(red[:, 156:312]) and not np.any(green[:, 156:312])
  assert (np.all(lower == 128, axis=-1)).sum() > 7 * 128 * 128
  video = draw_sheet([Shown("b", grey.repeat(9, 0), "", True)] * 2)
  assert (np.asarray(video) == 128).all(-1).sum() == 2 * 9 * 64 * 64
  with pytest.raises(UserError, match="cannot write"):
    (tmp_path / "file").write_text("")
    write_sheet(tmp_path / "file" / "sheet.png", cells)


def test_prompts_of_the_splits_differ_as_their_names_say():
  asked = make_prompts(MediaDataConfig(worlds=WORLDS), 6)
  for (split, moving), prompts in asked.items():
    assert all(p.scene.held_out == (split == "held_out") for p in prompts)
    assert all(len(p.media) == (9 if moving else 1) for p in prompts)
  assert len(asked) == 4 and len({p.question.kind for many in asked.values() for p in many}) > 4


def test_worlds_that_are_there_for_training_alone_give_no_prompts():
  pairs = WorldSource(scene=SceneConfig(min_objects=2, max_objects=2), seed=1, judged=False)
  judged = make_prompts(MediaDataConfig(worlds=WORLDS[:1]), 6)
  asked = make_prompts(MediaDataConfig(worlds=(pairs, *WORLDS[:1])), 6)
  assert {key: [p.caption for p in many] for key, many in asked.items()} == {
    key: [p.caption for p in many] for key, many in judged.items()
  }


def test_one_prompt_alone_has_no_floor_but_is_scored():
  (prompt,) = make_prompts(MediaDataConfig(worlds=WORLDS[:1]), 1)["held_out", False]
  assert floor(TASKS[0], [prompt.media], [prompt], Reader()) == {}


def test_questions_are_heard_in_known_and_in_unseen_voices(hearing):
  found = evaluate_vision(hearing, makers=[Named()], prompts=40)
  assert list(found.scores) == list(SPLITS) and "other question" in found.to_text()
  assert list(found.scores["unseen_speakers"]) == [HEARD.name]
  for tasks in found.scores.values():
    right = tasks[HEARD.name]["right"]
    assert right[FULL] == right["truth"] == 1
    assert right["other question"] < 0.3 and 0.1 < right["floor"] < 0.9
    headline, written, *kinds = tasks[HEARD.name]
    assert (headline, written) == ("right", "written")
    said = tasks[HEARD.name][written]
    assert said[FULL] == said["truth"] == 1 and said["other question"] < 0.3
    assert len(kinds) > 4 and set(kinds) <= set(KINDS)
    assert list(tasks[HEARD.name]["shape"]) == list(right)
  assert list(found.scores["held_out"])[-1] == HEARD.name
  deaf = dataclasses.replace(hearing, speech=None)
  assert HEARD.name not in evaluate_vision(deaf, makers=[Named()], prompts=2).to_text()


def test_a_model_answers_what_it_hears(hearing, monkeypatch):
  monkeypatch.setattr(vision_lib, "TASKS", ())
  found = evaluate_vision(hearing, members=[], prompts=2)
  for split in SPLITS:
    assert set(found.scores[split][HEARD.name]["right"]) == {
      FULL, "floor", "other question", "truth"
    }  # fmt: skip


def test_what_is_written_down_of_a_heard_question_is_a_line_before_its_answer(hearing, monkeypatch):
  encode = lambda text: hearing.tokenizer.encode(text).tolist()
  told = [*encode("What shape is it?"), SpecialToken.SEP, *encode("ring"), SpecialToken.EOS]

  def say(self, weights, batch, *, max_new_tokens, banned, **how):
    assert not banned[told].any() and max_new_tokens >= longest
    tokens = np.tile(np.int32(told), (batch.row.kind.shape[0], 1))
    return iter([Generated(tokens, np.full(len(tokens), len(told)), np.zeros(tokens.shape))])

  monkeypatch.setattr(Decoder, "stream_media", say)
  data = config_lib.build(MediaDataConfig, hearing.config["data"]["media"], path="media")
  prompts = make_prompts(data, 2)
  asked = [prompt for split in SPLITS for prompt in prompts[split, False]]
  longest = max(len(encode(p.question.question + p.question.answer)) + 2 for p in asked)
  studio = Studio(hearing, data, prompts, DrawingConfig())
  made = studio.run(HEARD, prompts["held_out", False], None, 0)
  assert made == ["What shape is it?\nring"] * 2


def test_a_question_is_said_by_voices_of_its_split(hearing):
  data = config_lib.build(MediaDataConfig, hearing.config["data"]["media"], path="media")
  asked, again = make_prompts(data, 3), make_prompts(data, 3)
  known, unseen = asked["validation", False], asked["unseen_speakers", False]
  for a, b, c in zip(known, unseen, again["validation", False]):
    assert a.question == b.question and a.scene == b.scene
    assert len(a.waveform) != len(b.waveform) or (a.waveform != b.waveform).any()
    np.testing.assert_array_equal(a.waveform, c.waveform)
  silent = make_prompts(dataclasses.replace(data, spoken=()), 3)
  assert [p.question for p in silent["validation", False]] == [p.question for p in known]
  assert set(silent) == {("validation", False), ("held_out", False)}


def test_models_without_scenes_of_the_world_are_not_asked(saved):
  assert evaluate_vision(dataclasses.replace(saved, config={})) is None
  assert evaluate_vision(dataclasses.replace(saved, vision=None)) is None
  member = parse_member(HALF, saved.model)
  with pytest.raises(ValueError, match="prompts"):
    evaluate_vision(saved, members=[member], prompts=0)
