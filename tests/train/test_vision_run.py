"""experiments/vision.py, shrunk: trained, resumed, reported, and switched to a tokenizer of more bits."""

import dataclasses
import importlib.util
import json
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ernie_jax
from ernie_jax import config as config_lib
from ernie_jax.errors import UserError
from ernie_jax.train import checkpoint
from ernie_jax.train.encoder_io import SavedEncoder, load_encoder, save_encoder
from ernie_jax.train.experiment import build_experiment
from ernie_jax.train.metrics import read_metrics
from ernie_jax.train.model_io import load_model
from ernie_jax.train.run import REPORT, run_experiment
from ernie_jax.train.start_io import load_start
from ernie_jax.vision.quantizer import QuantizerConfig
from ernie_jax.vision.tokenizer import TokenizerConfig, initial_params
from ernie_jax.vision.vit import VisionTransformer, VitConfig

EXPERIMENT = pathlib.Path(ernie_jax.__file__).parents[1] / "experiments" / "vision.py"


def fresh_tokenizer(folder: pathlib.Path, bits: int) -> pathlib.Path:
  """A workdir with an untrained visual tokenizer, as its stage leaves one."""
  config = TokenizerConfig(
    quantizer=QuantizerConfig(sides=(1, 2, 4), bits=bits),
    patch=8,
    widths=(8,),
    blocks=1,
    temporal=4,
  )
  workdir = folder / f"tokenizer_{bits}"
  workdir.mkdir()
  (workdir / "config.json").write_text(json.dumps({"tokenizer": config_lib.to_dict(config)}))
  params = jax.jit(lambda: initial_params(config, jax.random.key(bits)))()
  with checkpoint.Checkpoints(str(workdir / "checkpoints")) as checkpoints:
    checkpoints.save(1, {"params": {"tokenizer": params}}, {})
  return workdir


def fresh_encoder(folder: pathlib.Path) -> pathlib.Path:
  """A workdir with an untrained visual encoder, as `convert` leaves one."""
  config = VitConfig(
    patch=8, grid=(4, 4), depth=1, width=16, heads=2, mlp_width=32, positions="sincos"
  )
  init = jax.jit(lambda key: VisionTransformer(config).init(key, jnp.zeros((1, 32, 32, 3))))
  params = nn.unbox(init(jax.random.key(7)))["params"]
  workdir = folder / "encoder"
  save_encoder(workdir, SavedEncoder(values={}, config=config, params=params, step=1))
  return workdir


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
  root = tmp_path_factory.mktemp("vision")
  for bits in (4, 6):
    fresh_tokenizer(root, bits)
  fresh_encoder(root)
  return root


def experiment(folder: pathlib.Path, *, bits: int = 4, steps: int = 2):
  """The tiny experiment, smaller still: 4 x 4 latents, so that a step is quick to compile."""
  spec = importlib.util.spec_from_file_location("vision", EXPERIMENT)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config("tiny")
  config.model.update(depth=2)
  config.elastic.members = ("1x4x2",)
  config.model.vision.update(sides=(1, 2, 4), bits=bits)
  config.vision.tokenizer = str(folder / f"tokenizer_{bits}")
  config.vision.encoder = str(folder / "encoder")
  config.vision.understand.vit.update(patch=8, grid=(4, 4))
  config.data.update(row_length=200, data_dir=str(folder / "data"))
  config.data.media.slots.update(drawn_images=3, drawn_videos=1, seen_images=3, seen_videos=1)
  config.train.update(steps=steps, log_every=1, checkpoint_every=1, evaluate_every=2)
  config.train.schedule.update(kind="constant", warmup_steps=0)
  config.evaluation.rows = 2
  config.mesh.data = 1
  return build_experiment(config)


@pytest.fixture(scope="module")
def finished(folder) -> pathlib.Path:
  """Two steps, with the report."""
  workdir = folder / "run"
  run_experiment(experiment(folder), workdir)
  return workdir


def test_a_run_learns_from_media_and_reports_its_family(finished):
  lines = read_metrics(finished)
  assert [line["step"] for line in lines] == [1, 2]
  for name in ("loss/bits", "loss/understanding", "bits/accuracy"):
    assert all(np.isfinite(line[name]) for line in lines)
  assert lines[0]["loss/bits"] == pytest.approx(np.log(2), abs=0.02)
  assert len(lines[0]["bits/by_scale"]) == 3 and "held_out/bits" in lines[1]
  family = json.loads((finished / "family.json").read_text())
  assert [m["name"] for m in family["media"]] == ["2x4x2", "1x4x2"]
  assert (finished / REPORT).exists()


def test_all_that_generation_needs_is_in_one_workdir(finished, folder):
  saved = load_model(finished)
  assert saved.vision.config.tokenizer.quantizer == saved.model.vision
  stored = checkpoint.load_params(
    folder / "tokenizer_4" / "checkpoints", subtree="params/tokenizer"
  )
  jax.tree.map(np.testing.assert_array_equal, saved.vision.tokenizer, stored)


def test_a_given_encoder_is_looked_with_and_stays_as_it_is(finished, folder):
  found = load_model(finished).params["understand"]
  jax.tree.map(
    np.testing.assert_array_equal, found["vit"], load_encoder(folder / "encoder", "vit").params
  )
  assert np.abs(found["vit_norm"]["bias"]).max() > 0  # what follows it trains
  e = experiment(folder, steps=3)
  without = dataclasses.replace(e, vision=dataclasses.replace(e.vision, encoder=""))
  with pytest.raises(UserError, match=r"another config: config\.vision\.encoder was '.*encoder'"):
    run_experiment(without, finished)


def test_a_resumed_run_switches_to_more_bits_and_goes_on(finished, folder):
  before = load_model(finished)
  wider = experiment(folder, bits=6, steps=3)
  run_experiment(wider, finished, with_report=False)
  after = load_model(finished)
  assert after.step == 3 and after.model.vision.bits == 6
  assert after.params["vision"]["head"].shape[1] == 6
  moved = np.abs(after.params["vision"]["head"][:, :4] - before.params["vision"]["head"])
  assert 0 < moved.max() < 0.1
  assert read_metrics(finished)[-1]["step"] == 3
  same = (run.params["understand"]["vit"] for run in (before, after))
  jax.tree.map(np.testing.assert_array_equal, *same)
  assert load_model(finished, step=2).model.vision.bits == 4  # the old checkpoint is still whole
  with pytest.raises(UserError, match=r"config\.model\.vision\.bits was 6, is 4"):
    run_experiment(experiment(folder, steps=4), finished)


def test_a_run_begins_with_what_another_model_has_learnt(finished, folder, tmp_path):
  before = load_model(finished)
  e = _from(finished, folder, bits=6)
  e = dataclasses.replace(
    e, vision=dataclasses.replace(e.vision, tokenizer=_tokenizer(folder, before))
  )
  run_experiment(e, tmp_path / "next", with_report=False)
  after = load_model(tmp_path / "next")
  assert after.step == 1 and after.model.vision.bits == 6
  assert after.tokenizer.fingerprint == before.tokenizer.fingerprint
  # Another seed: what was not taken over would be far from what it was.
  for name in ("embed", "understand"):
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), after.params[name], before.params[name])
    assert 0 < max(jax.tree.leaves(moved)) < 0.1
  moved = (
    after.params["vision"]["head"][:, : before.model.vision.bits] - before.params["vision"]["head"]
  )
  assert np.abs(moved).max() < 0.1
  assert (tmp_path / "next" / "config.json").exists() and read_metrics(tmp_path / "next")[-1][
    "step"
  ] == 1


def test_a_start_that_does_not_fit_is_named(finished, folder, tmp_path):
  e = _from(finished, folder, bits=load_model(finished).model.vision.bits)
  replace, model, vision = dataclasses.replace, e.model, e.vision
  cases = {
    r"config\.start: no trained model in": replace(e, start=str(tmp_path)),
    r"holds another model: config\.model\.heads was 2, is 1": replace(
      e, model=replace(model, heads=1, head_dim=32)
    ),
    r"config\.text\.tokenizer must be empty": replace(
      e, text=replace(e.text, tokenizer="words.model")
    ),
    r"config\.vision\.tokenizer must be empty: it is config\.start's": replace(
      e, vision=replace(vision, tokenizer=str(folder / "tokenizer_6"))
    ),
    r"config\.vision\.tokenizer must name a tokenizer of so many bits": replace(
      e, model=replace(model, vision=replace(model.vision, bits=8))
    ),
    r"bits can grow from config\.start's \d, not be 2": replace(
      e, model=replace(model, vision=replace(model.vision, bits=2))
    ),
  }
  for message, wrong in cases.items():
    with pytest.raises(UserError, match=message):
      load_start(wrong)


def _from(finished: pathlib.Path, folder: pathlib.Path, *, bits: int):
  """One step that goes on from `finished`, with its visual tokenizer."""
  e = experiment(folder, bits=bits, steps=1)
  vision = dataclasses.replace(e.vision, tokenizer="")
  return dataclasses.replace(e, start=str(finished), seed=5, vision=vision)


def _tokenizer(folder: pathlib.Path, before) -> str:
  """The workdir of six bits, where the model has fewer."""
  return "" if before.model.vision.bits == 6 else str(folder / "tokenizer_6")


def _with_depth(vision, depth: int):
  vit = dataclasses.replace(vision.understand.vit, depth=depth)
  return dataclasses.replace(vision, understand=dataclasses.replace(vision.understand, vit=vit))


def test_what_does_not_fit_is_named_before_any_work(folder, tmp_path):
  e = experiment(folder)
  cases = {
    "config.vision.tokenizer must be the workdir": dataclasses.replace(
      e, vision=dataclasses.replace(e.vision, tokenizer="")
    ),
    "12 bits on the sides 1,2,4, but the tokenizer": dataclasses.replace(
      e, model=dataclasses.replace(e.model, vision=dataclasses.replace(e.model.vision, bits=12))
    ),
    "config.vision.encoder: .* is of another shape: config.vision.understand.vit.depth was 1, is 2": (
      dataclasses.replace(e, vision=_with_depth(e.vision, 2))
    ),
    "no vision transformer in": dataclasses.replace(
      e, vision=dataclasses.replace(e.vision, encoder=str(tmp_path))
    ),
    "no visual tokenizer in": dataclasses.replace(
      e, vision=dataclasses.replace(e.vision, tokenizer=str(tmp_path))
    ),
  }
  for message, wrong in cases.items():
    with pytest.raises(UserError, match=message):
      run_experiment(wrong, tmp_path / "run")
  with pytest.raises(UserError, match="the model has no vision"):
    dataclasses.replace(e, model=dataclasses.replace(e.model, vision=None))
