"""The command with a picture and a question that is heard: the world says it, and the model answers in text."""

import dataclasses

import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from PIL import Image
from small_vision import CONFIG, MODEL, SLOTS, clear_params, frozen_tokenizer, media

from ernie_jax import config as config_lib
from ernie_jax.audio.codec import CodecConfig, EncoderConfig, initial_params
from ernie_jax.audio.decoders import DecoderConfig
from ernie_jax.audio.quantizer import RvqConfig, fresh_codebooks
from ernie_jax.backbone.config import AudioConfig
from ernie_jax.data.media_rows import MediaDataConfig
from ernie_jax.data.world import say
from ernie_jax.elastic.family import ElasticConfig
from ernie_jax.errors import UserError
from ernie_jax.generate import __main__ as command
from ernie_jax.media import Vision
from ernie_jax.speech import VOICE, Speech
from ernie_jax.text.tokenizer import train_tokenizer
from ernie_jax.train.model_io import SavedModel, save_model

SMALL = dict(width=8, blocks=1, frame_width=8, frame_blocks=1)
CODEC = CodecConfig(
  quantizer=RvqConfig(levels=2, codes=6, width=8, semantic_width=4),
  encoder=EncoderConfig(**SMALL),
  decoder=DecoderConfig(**SMALL),
)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """A saved model that sees and hears."""
  audio = AudioConfig(levels=2, codes=6, voice=VOICE)
  model = dataclasses.replace(MODEL, vocab_size=336, audio=audio, top_layers=2)
  frozen = frozen_tokenizer()
  vision = Vision(CONFIG, jax.tree.map(np.asarray, frozen))
  codec = jax.tree.map(np.asarray, jax.jit(lambda: initial_params(CODEC, jax.random.key(0)))())
  books = fresh_codebooks(CODEC.quantizer, jax.random.key(1))
  saved = SavedModel(
    config={
      "data": {"row_length": 80, "media": config_lib.to_dict(MediaDataConfig(slots=SLOTS))},
      "vision": {"understand": config_lib.to_dict(CONFIG.understand)},
    },
    model=model,
    elastic=ElasticConfig(min_depth=2),
    params=jax.tree.map(np.asarray, clear_params(frozen, model, vision)),
    bias=np.zeros((2, 4), np.float32),
    usage=np.arange(8, dtype=np.float32).reshape(2, 4),
    tokenizer=train_tokenizer(["what shape is red?"] * 40, vocab_size=330),
    step=7,
    vision=vision,
    speech=Speech(CODEC, codec, np.asarray(books.vectors)),
  )
  folder = tmp_path_factory.mktemp("run") / "joint"
  save_model(folder, saved)
  return folder


@pytest.fixture
def picture(tmp_path):
  Image.fromarray(media(4)[0]).save(tmp_path / "picture.png")
  return str(tmp_path / "picture.png")


def run(workdir, **values) -> None:
  flags.FLAGS.mark_as_parsed()
  with flagsaver.flagsaver(workdir=str(workdir), **values):
    command.main([])


def said(path, text: str, **values) -> str:
  flags.FLAGS.mark_as_parsed()
  with flagsaver.flagsaver(text=text, out=str(path), **values):
    say.main([])
  return str(path)


def test_the_answer_depends_on_the_picture_and_on_what_is_heard(workdir, picture, tmp_path, capsys):
  first = said(tmp_path / "first.wav", "What shape is red?")
  other = said(tmp_path / "other.wav", "How many small things are there?", voice_number=33)
  assert "boki koka" in capsys.readouterr().out
  arguments = dict(temperature=0.0, max_new_tokens=6)
  answers = []
  for inputs in ([picture, first], [first, picture], [picture, other], [picture]):
    run(workdir, input=inputs, **arguments)
    answers.append(capsys.readouterr().out)
  assert answers[0] == answers[1] and len(set(answers)) == 3


def test_mistakes_are_told_in_one_line(workdir, picture, tmp_path):
  sound = said(tmp_path / "question.wav", "What shape is red?")
  with pytest.raises(UserError, match="--prompt: the question is heard"):
    run(workdir, input=[picture, sound], prompt="What shape is red?")
  with pytest.raises(UserError, match="one question at a time"):
    run(workdir, input=[picture, sound, sound])
  with pytest.raises(UserError, match="one picture or video"):
    run(workdir, input=[picture, picture, sound])
  with pytest.raises(UserError, match="--text: the word 'hexagon' has no pronunciation"):
    said(tmp_path / "no.wav", "a hexagon")
  with pytest.raises(UserError, match="--voice_number must be 0 to 39, got 40"):
    said(tmp_path / "no.wav", "a ring", voice_number=40)
