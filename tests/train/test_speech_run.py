"""experiments/speech.py, shrunk: the corpus encoded once, trained, resumed and reported."""

import dataclasses
import importlib.util
import json
import pathlib

import jax
import numpy as np
import pytest

import ernie_jax
from ernie_jax import config as config_lib
from ernie_jax.audio.codec import CodecConfig, EncoderConfig, initial_params
from ernie_jax.audio.decoders import DecoderConfig
from ernie_jax.audio.quantizer import RvqConfig, fresh_codebooks
from ernie_jax.errors import UserError
from ernie_jax.evaluate import held_out_media
from ernie_jax.speech import VOICE
from ernie_jax.train import checkpoint
from ernie_jax.train.experiment import build_experiment
from ernie_jax.train.metrics import read_metrics
from ernie_jax.train.model_io import load_model
from ernie_jax.train.run import REPORT, run_experiment

EXPERIMENT = pathlib.Path(ernie_jax.__file__).parents[1] / "experiments" / "speech.py"
SMALL = dict(width=8, blocks=1, frame_width=8, frame_blocks=1)
CODEC = CodecConfig(
  quantizer=RvqConfig(levels=2, codes=16, width=8, semantic_width=4),
  encoder=EncoderConfig(**SMALL),
  decoder=DecoderConfig(**SMALL),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
  """With the workdir of an untrained codec, as its stage leaves one."""
  root = tmp_path_factory.mktemp("speech")
  workdir = root / "codec"
  workdir.mkdir()
  (workdir / "config.json").write_text(json.dumps({"codec": config_lib.to_dict(CODEC)}))
  params = initial_params(CODEC, jax.random.key(0))
  books = fresh_codebooks(CODEC.quantizer, jax.random.key(1))
  with checkpoint.Checkpoints(str(workdir / "checkpoints")) as checkpoints:
    checkpoints.save(1, {"params": {"codec": params}, "variables": vars(books)}, {})
  return root


def experiment(folder: pathlib.Path, *, steps: int = 2, arg: str = "tiny"):
  spec = importlib.util.spec_from_file_location("speech", EXPERIMENT)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config(arg)
  config.model.update(depth=3, top_layers=2)
  config.model.audio.levels = 2
  config.elastic.members = ("2x4x2",)
  config.audio.codec = str(folder / "codec")
  config.data.update(data_dir=str(folder / "data"))
  config.train.update(steps=steps, log_every=1, checkpoint_every=1, evaluate_every=2)
  config.train.schedule.update(kind="constant", warmup_steps=0)
  config.evaluation.update(rows=4, table_rows=16)
  config.mesh.data = 1
  return build_experiment(config)


@pytest.fixture(scope="module")
def finished(folder) -> pathlib.Path:
  """Two steps, with the report."""
  workdir = folder / "run"
  run_experiment(experiment(folder), workdir)
  return workdir


def test_what_measures_a_run_while_it_trains_measures_its_family_too(finished):
  assert held_out_media._sums._cache_size() == 1


def test_a_run_learns_from_speech_and_reports_its_family(finished, folder):
  lines = read_metrics(finished)
  assert [line["step"] for line in lines] == [1, 2]
  for name in ("loss/codes", "loss/understanding"):
    assert all(np.isfinite(line[name]) for line in lines)
  assert lines[0]["loss/codes"] == pytest.approx(np.log(17), abs=0.05)
  assert len(lines[0]["codes/by_level"]) == 2
  assert {"held_out/codes", "held_out/speech_text"} <= set(lines[1])
  family = json.loads((finished / "family.json").read_text())
  assert [m["name"] for m in family["speech"]] == ["3x4x2", "2x4x2"]
  assert all(2 < m["codes"] < 4 for m in family["speech"])
  assert (finished / REPORT).exists()
  assert len(list((folder / "data" / "codes").glob("*.npz"))) == 2  # train and validation


def test_all_that_generation_needs_is_in_one_workdir(finished, folder):
  saved = load_model(finished)
  assert saved.speech.config == CODEC
  stored = checkpoint.load_params(folder / "codec" / "checkpoints", subtree="params/codec")
  jax.tree.map(np.testing.assert_array_equal, saved.speech.params, stored)
  assert saved.voices and all(v.shape == (VOICE,) for v in saved.voices.values())
  assert set(saved.voices) <= {str(i) for i in range(32)}


def test_a_resumed_run_needs_the_codec_no_more(finished, folder):
  e = experiment(folder, steps=3)
  moved = dataclasses.replace(e, audio=dataclasses.replace(e.audio, codec="elsewhere"))
  run_experiment(moved, finished, with_report=False)
  assert load_model(finished).step == 3 and read_metrics(finished)[-1]["step"] == 3
  other = dataclasses.replace(moved, model=experiment(folder, arg="tiny,last").model)
  with pytest.raises(UserError, match=r"config\.model\.audio\.heads was 'depth', is 'last'"):
    run_experiment(other, finished)


def test_what_does_not_fit_is_named_before_any_work(folder, tmp_path):
  e = experiment(folder)
  replace = dataclasses.replace
  audio = replace(e.model.audio, codes=32)
  cases = {
    "config.audio.codec must be the workdir": replace(e, audio=replace(e.audio, codec="")),
    "no audio codec in": replace(e, audio=replace(e.audio, codec=str(tmp_path))),
    "config.model.audio: the codec makes 2 levels of 16 codes": replace(
      e, model=replace(e.model, audio=audio)
    ),
  }
  for message, wrong in cases.items():
    with pytest.raises(UserError, match=message):
      run_experiment(wrong, tmp_path / "run")
  with pytest.raises(UserError, match="the model has no audio"):
    replace(e, model=replace(e.model, audio=None))
  with pytest.raises(UserError, match="level_weights must be empty or 2 numbers"):
    replace(e, objective=replace(e.objective, level_weights=(1.0,)))
  short = replace(e, data=replace(e.data, row_length=16))
  with pytest.raises(UserError, match="is longer than a row"):
    run_experiment(short, tmp_path / "run")
