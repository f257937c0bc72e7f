"""Samples of tiny models: by the command for text and pictures, and with the truth in a model's place for the rest."""

import dataclasses

import jax
import numpy as np
import pytest
from hand_made import parsed
from small_vision import CODE, MODEL, VIT, clear_params

from ernie_jax import config as config_lib
from ernie_jax.data.audio import to_float
from ernie_jax.data.media_rows import MediaDataConfig
from ernie_jax.data.speech_rows import SpeechDataConfig
from ernie_jax.data.world.scene_sampling import SceneConfig
from ernie_jax.data.world.scenes import WorldSource
from ernie_jax.data.world.speech_set import SpeechSource
from ernie_jax.data.world.spoken import SpokenSource
from ernie_jax.elastic.family import ElasticConfig
from ernie_jax.evaluate import speech_prompts, vision_prompts
from ernie_jax.evaluate.vision_makers import Truth
from ernie_jax.evaluate.vision_prompts import HEARD, make_prompts
from ernie_jax.media import MediaConfig, Vision
from ernie_jax.report import samples as samples_lib
from ernie_jax.report.document import Figure, Film, Sound
from ernie_jax.report.page import write_report
from ernie_jax.report.results import arrowed
from ernie_jax.sequence import SlotsConfig
from ernie_jax.text.tokenizer import train_tokenizer
from ernie_jax.train.model_io import SavedModel, save_model
from ernie_jax.vision.tokenizer import TokenizerConfig, initial_params
from ernie_jax.vision.understand import UnderstandConfig

PICTURES = WorldSource(scene=SceneConfig(max_objects=2))
VIDEOS = WorldSource(scene=SceneConfig(max_objects=2, frames=9))
SPOKEN = SpokenSource(scenes=PICTURES, recorded=4)


@pytest.fixture(scope="module")
def saved() -> SavedModel:
  """An untrained model of 32 px pictures whose parameters all matter."""
  vit = dataclasses.replace(VIT, patch=16, grid=(2, 2))
  code = dataclasses.replace(CODE, sides=(1, 2))
  config = MediaConfig(
    TokenizerConfig(quantizer=code, patch=16, widths=(8,), blocks=1, temporal=4),
    UnderstandConfig(vit=vit, heads=2),
  )
  data = MediaDataConfig(worlds=(PICTURES,), slots=SlotsConfig(drawn_videos=0, seen_videos=0))
  asked = make_prompts(data, 20)
  texts = [t for many in asked.values() for p in many for t in (p.caption, p.question.question)]
  tokenizer = train_tokenizer(texts, vocab_size=400)
  model = dataclasses.replace(MODEL, depth=1, vocab_size=tokenizer.vocab_size, vision=code)
  frozen = jax.jit(lambda: initial_params(config.tokenizer, jax.random.key(1)))()
  vision = Vision(config, jax.tree.map(np.asarray, frozen))
  return SavedModel(
    config={
      "name": "tiny",
      "data": {"row_length": 64, "sources": (), "media": config_lib.to_dict(data)},
      "vision": {"understand": config_lib.to_dict(config.understand)},
      "evaluation": {"prompt": "a large"},
    },
    model=model,
    elastic=ElasticConfig(),
    params=jax.tree.map(np.asarray, clear_params(frozen, model, vision)),
    bias=np.zeros((1, 4), np.float32),
    usage=np.ones((1, 4), np.float32),
    tokenizer=tokenizer,
    step=7,
    vision=vision,
  )


def test_a_model_on_disk_writes_and_draws(saved, tmp_path, monkeypatch):
  monkeypatch.setattr(vision_prompts, "TASKS", vision_prompts.TASKS[:1])  # each compiles programs
  save_model(tmp_path / "run", saved)
  page = parsed(write_report(tmp_path / "run", count=2).read_text())
  text = "\n".join(page.text)
  assert "Written after 'a large':" in text and "text → picture" in text
  images = [values for tag, values in page.tags if tag == "img"]
  assert len(images) == 2 and all(values["width"] == "160" for values in images)
  first = make_prompts(MediaDataConfig(worlds=(PICTURES,)), 1)["validation", False][0]
  assert first.caption in text and images[0]["alt"].endswith(first.caption)
  assert text.count("✓ right") + text.count("✗ wrong") == 2
  assert "(seen combinations)" in text and "(never-trained combinations)" in text


class SpokenTruth:
  """The recordings in the place of a model's speech, and their words in that of its transcripts."""

  def make(self, task, prompts, progress):
    progress(len(prompts))
    return [to_float(p.waveform) if task.speaks else p.text for p in prompts]


def test_the_truth_in_the_place_of_a_model_is_right(saved, monkeypatch, tmp_path):
  data = {
    "media": config_lib.to_dict(MediaDataConfig(worlds=(PICTURES, VIDEOS), spoken=(SPOKEN,))),
    "speech": config_lib.to_dict(SpeechDataConfig(worlds=(SpeechSource(),))),
    "sources": (),
    "data_dir": str(tmp_path),
  }
  config = saved.config | {"data": data, "evaluation": {}}
  everything = dataclasses.replace(saved, config=config, speech=object())
  made_of = {samples_lib.vision_makers: Truth(), samples_lib.speech_makers: SpokenTruth()}
  for room, maker in made_of.items():
    monkeypatch.setattr(room, "Studio", lambda *_, maker=maker: maker)
  monkeypatch.setattr(samples_lib, "_full", lambda saved, studio: studio)
  sections = samples_lib.samples(everything, count=3)
  tasks = (*vision_prompts.TASKS, HEARD, *speech_prompts.TASKS)
  assert [one.title for one in sections] == [arrowed(task.name) for task in tasks]
  for section in sections:
    (gallery,) = section.blocks
    assert len(gallery.samples) == 3
    for sample in gallery.samples:
      said = section.title == "text → speech"  # by no judge, since none was fitted
      assert sample.right is (None if said else True)
      kind = Sound if "speech" in section.title else Film if "video" in section.title else Figure
      assert isinstance(sample.media, kind)
      assert (sample.sound is not None) == (section.title == HEARD.name)
    pictures = {sample.media for sample in gallery.samples}
    about = {line for sample in gallery.samples for line in sample.lines if not line[0]}
    if section.title == HEARD.name:  # a picture in two voices, of which one is new
      assert about == {("", f"({words})") for words in vision_prompts.SPLITS.values()}
    elif "speech" not in section.title:
      assert len(pictures) == 3 and ("", "(unseen voices)") not in about
  splits = {line for one in sections[-1].blocks[0].samples for line in one.lines if not line[0]}
  assert splits == {("", f"({words})") for words in speech_prompts.SPLITS.values()}
