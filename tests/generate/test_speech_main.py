"""The command with speech: sound files in and out, and mistakes told in one line."""

import dataclasses

import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from small_speech import MODEL, clear_params

from ernie_jax.audio.codec import CodecConfig, EncoderConfig, initial_params
from ernie_jax.audio.decoders import DecoderConfig
from ernie_jax.audio.quantizer import RvqConfig, fresh_codebooks
from ernie_jax.data.audio import RATE, read_audio, write_audio
from ernie_jax.elastic.family import ElasticConfig
from ernie_jax.errors import UserError
from ernie_jax.generate import __main__ as command
from ernie_jax.speech import VOICE, Speech
from ernie_jax.text.tokenizer import train_tokenizer
from ernie_jax.train.model_io import SavedModel, load_model, save_model

SMALL = dict(width=8, blocks=1, frame_width=8, frame_blocks=1)
CODEC = CodecConfig(
  quantizer=RvqConfig(levels=3, codes=6, width=8, semantic_width=4),
  encoder=EncoderConfig(**SMALL),
  decoder=DecoderConfig(**SMALL),
)


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
  """Two saved models, of which "text" has no audio."""
  tokenizer = train_tokenizer(["bada kilo", "mune sofi"] * 40, vocab_size=330)
  audio = dataclasses.replace(MODEL.audio, voice=VOICE)
  model = dataclasses.replace(MODEL, vocab_size=336, audio=audio)
  params = jax.tree.map(np.asarray, clear_params(model))
  books = fresh_codebooks(CODEC.quantizer, jax.random.key(1))
  codec = jax.tree.map(np.asarray, initial_params(CODEC, jax.random.key(0)))
  rng = np.random.default_rng(0)
  saved = SavedModel(
    config={"data": {"row_length": 40}},
    model=model,
    elastic=ElasticConfig(min_depth=3),
    params=params,
    bias=np.zeros((4, 4), np.float32),
    usage=np.arange(16, dtype=np.float32).reshape(4, 4),
    tokenizer=tokenizer,
    step=7,
    speech=Speech(CODEC, codec, np.asarray(books.vectors)),
    voices={str(i): rng.normal(size=VOICE).astype(np.float32) for i in range(4)},
  )
  folders = {name: tmp_path_factory.mktemp("run") / name for name in ("speech", "text")}
  save_model(folders["speech"], saved)
  plain = {k: v for k, v in params.items() if k != "audio"}
  text = dataclasses.replace(model, audio=None)
  save_model(folders["text"], dataclasses.replace(saved, model=text, params=plain, speech=None))
  return folders


@pytest.fixture
def run(workdirs, capsys):
  """Runs the command on a workdir with these flags; gives what it printed."""
  flags.FLAGS.mark_as_parsed()

  def with_flags(workdir, **values):
    with flagsaver.flagsaver(workdir=str(workdirs.get(workdir, workdir)), **values):
      command.main([])
    return capsys.readouterr()

  return with_flags


@pytest.fixture
def sound(tmp_path):
  path = tmp_path / "in.wav"
  times = np.arange(RATE // 2) / RATE
  write_audio(path, (0.3 * np.sin(2 * np.pi * 140 * times)).astype(np.float32))
  return str(path)


def test_a_saved_model_keeps_its_codec_and_voices(workdirs):
  saved = load_model(workdirs["speech"])
  assert saved.speech.config == CODEC and set(saved.voices) == set("0123")
  assert saved.speech.vectors.shape == (3, 6, 8)
  text = load_model(workdirs["text"])
  assert text.speech is None and text.voices == {}


def test_words_are_spoken_by_a_known_speaker_a_voice_or_a_member(run, tmp_path, sound):
  out = {}
  for name, how in {
    "known": dict(speaker="3"),
    "voice": dict(voice=sound),
    "small": dict(member="3x2x1"),
  }.items():
    path = tmp_path / f"{name}.wav"
    printed = run("speech", prompt="bada kilo", speech=str(path), temperature=1.0, **how)
    assert "of speech in" in printed.err and "ms" in printed.err
    out[name] = read_audio(path)
    assert len(out[name]) % 1280 == 0 and len(out[name])
  differ = lambda a, b: len(a) != len(b) or (a != b).any()
  assert differ(out["known"], out["voice"]) and differ(out["known"], out["small"])


def test_speech_is_written_down(run, sound):
  printed = run("speech", input=[sound], prompt="Transcribe.", max_new_tokens=5)
  assert printed.out.endswith("\n")
  assert run("speech", input=[sound], max_new_tokens=5).out == printed.out


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (dict(workdir="text", speech="out.wav", prompt="a"), "no audio; it was trained without speech"),
    (dict(workdir="text", input=["x.wav"]), "--input: the model"),
    (dict(speech="out.wav"), "--speech needs the words"),
    (dict(speech="out.mp3", prompt="a"), "--speech: write a .wav or .flac file"),
    (dict(speech="missing/out.wav", prompt="a"), "there is no directory missing"),
    (dict(speech="out.wav", prompt="a", speaker="9"), "no speaker '9'.*known are 0, 1, 2, 3"),
    (dict(speech="out.wav", prompt="a", speaker="1", voice="x.wav"), "either --speaker or --voice"),
    (dict(speech="out.wav", prompt="a", voice="absent.wav"), "absent.wav"),
    (dict(speech="out.wav", prompt="a", input=["x.wav"]), "takes no --input"),
    (dict(speech="out.wav", prompt="a" * 99), "leave no room to speak in the 40 positions"),
    (dict(speech="out.wav", prompt="a", image="out.png"), "either --speech"),
    (dict(speech="out.wav", prompt="a", temperature=-1.0), "--temperature"),
    (dict(speaker="3"), "--speech=FILE"),
    (dict(input=["absent.wav"]), "absent.wav"),
    (dict(input=["absent.wav"], prompt="Who speaks?"), "answered with its words alone"),
  ],
)  # fmt: skip
def test_mistakes_are_one_line_and_write_nothing(run, tmp_path, monkeypatch, arguments, message):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match=message) as raised:
    run(arguments.pop("workdir", "speech"), **arguments)
  assert "\n" not in str(raised.value) and not list(tmp_path.iterdir())


def test_a_clip_longer_than_a_row_is_refused(run, tmp_path):
  path = tmp_path / "long.wav"
  write_audio(path, np.zeros(RATE * 4, np.float32))
  with pytest.raises(UserError, match=r"long.wav is 4\.0 s long, but a row .* holds 2\.9 s"):
    run("speech", input=[str(path)])
