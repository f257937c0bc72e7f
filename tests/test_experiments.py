"""Every file in experiments/ builds by shape alone, and trains one step when shrunk."""

import dataclasses
import importlib.util
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

import ernie_jax
from ernie_jax.backbone.parameters import model_cost
from ernie_jax.sequence import Text, lay_out, pack
from ernie_jax.train import stages
from ernie_jax.train.experiment import Experiment, build_experiment
from ernie_jax.train.optimizer import make_optimizer
from ernie_jax.train.pretrain import Pretrain
from ernie_jax.train.schedule import make_schedule
from ernie_jax.train.state import create, shape_of
from ernie_jax.train.step import make_step

FOLDER = pathlib.Path(ernie_jax.__file__).parents[1] / "experiments"
OTHER_STAGES = {"visual_tokenizer", "visual_encoder", "audio_codec"}  # tested with their stage
PIPELINES = {"quickstart", "small"}
FILES = sorted(f for f in FOLDER.glob("*.py") if f.stem not in OTHER_STAGES | PIPELINES)


def read(path: pathlib.Path, arg: str) -> ml_collections.ConfigDict:
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(arg)


def load(path: pathlib.Path, arg: str) -> Experiment:
  """An experiment, or the first stage of one in two halves."""
  values = read(path, arg)
  return build_experiment(values.stages.pretrain if "stages" in values else values)


def parts(e: Experiment):
  task = Pretrain(e.model, e.elastic, e.objective)
  schedule = make_schedule(e.train.schedule, e.train.steps)
  shapes = jax.eval_shape(lambda key: nn.unbox(task.init(key)[0]), jax.random.key(0))
  return task, make_optimizer(e.train.optimizer, schedule, shapes), schedule


def test_there_are_experiments():
  assert FILES


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_an_experiment_builds_by_shape(path):
  e = load(path, "")
  assert not e.elastic.trains_family or e.elastic.first_step < e.train.steps
  task, optimizer, _ = parts(e)
  state = shape_of(task, optimizer, e.seed)
  sizes = {k: sum(x.size for x in jax.tree.leaves(v)) for k, v in state.params.items()}
  trained = sum(size for name, size in sizes.items() if not name.startswith("mtp_"))
  assert trained == model_cost(e.model, e.data.row_length).params_total


@pytest.mark.parametrize(
  ("name", "arg"),
  [
    ("vision", "64"),
    ("vision", "pictures"),
    ("vision", "64,pictures,tiny"),
    ("fine_detail", "mlp"),
    ("speech", "last"),
  ],
)
def test_a_variant_builds_by_shape(name, arg):
  e = load(FOLDER / f"{name}.py", arg)
  task, optimizer, _ = parts(e)
  assert shape_of(task, optimizer, e.seed).params
  assert not e.elastic.trains_family or e.elastic.first_step < e.train.steps
  if "64" in arg:
    assert {s.side for s in e.data.media.sources} == {64} == {e.data.media.slots.side}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_an_experiment_trains_a_shrunk_step(path):
  e = load(path, "tiny")
  task, optimizer, schedule = parts(e)
  rng = np.random.default_rng(0)
  tokens = lambda: tuple(rng.integers(64, e.model.vocab_size, e.data.row_length).tolist())
  rows = [pack([lay_out([Text(tokens())])], e.data.row_length) for _ in range(2)]
  batch = jax.tree.map(lambda *fields: np.stack(fields)[None], *rows)
  state = create(task, optimizer, e.seed)
  step = jax.jit(make_step(task, optimizer, schedule))
  after, report = step(state, batch, jnp.asarray(1))
  assert report.finite and int(after.step) == 1
  text = float(report.metrics["loss/text"])
  assert 0.5 * np.log(e.model.vocab_size) < text < 3 * np.log(e.model.vocab_size)
  moved = jax.tree.map(lambda a, b: bool((a != b).any()), after.params, state.params)
  assert moved["embed"]["embedding"]


@pytest.mark.parametrize(("name", "things"), [("quickstart", 1), ("small", 2)])
def test_what_a_pipeline_judges_holds_so_many_things(name, things):
  e = build_experiment(read(FOLDER / f"{name}.py", "").stages.model)
  assert e.elastic.first_step < e.train.steps
  media = e.data.media
  judged = [world.scene for world in media.worlds if world.judged]
  assert {s.max_objects for s in [*judged, *(spoken.scenes.scene for spoken in media.spoken)]} == {
    things
  }


@pytest.mark.parametrize("arg", ["", "tiny"])
@pytest.mark.parametrize("name", sorted(PIPELINES))
def test_a_pipeline_builds_in_an_order_that_can_be_run(name, arg):
  pipeline = stages.stage_of(values := read(FOLDER / f"{name}.py", arg)).build(values)
  order = list(pipeline.stages)
  for stage in order:
    assert all(order.index(other) < order.index(stage) for other in pipeline.made_from(stage))
  made_from = {name: set(pipeline.made_from(name)) for name in order}
  used = set().union(*made_from.values())
  assert order[-1] == "model" and used == set(order) - {"model"}
  assert pipeline.mesh.quick_compile == (arg == "tiny")
  task, optimizer, _ = parts(model := build_experiment(values.stages.model))
  params = shape_of(task, optimizer, model.seed).params
  assert {"vision", "audio"} <= set(params)


@pytest.mark.parametrize("arg", ["", "tiny"])
@pytest.mark.parametrize(("name", "after"), [("quickstart", "model"), ("small", "pretrain")])
def test_looking_alone_is_of_the_shape_of_what_goes_on_from_it(name, after, arg):
  values = read(FOLDER / f"{name}.py", arg).stages
  look, then = (build_experiment(values[stage]) for stage in ("look", after))
  router = dataclasses.replace(then.model.router, bias_rate=look.model.router.bias_rate)
  assert look.model == dataclasses.replace(then.model, router=router)
  assert look.vision.understand == then.vision.understand
  assert then.start == "@look" and not then.vision.tokenizer
  media = look.data.media
  assert media.tasks.draw == media.tasks.extend == 0 and not media.spoken
  assert not look.data.sources and not look.data.speech.sources
  assert not look.elastic.trains_family and then.elastic.trains_family


def test_rows_of_the_quickstarts_model_are_not_those_of_its_tokenizer():
  stages_of = read(FOLDER / "quickstart.py", "").stages
  rows = stages_of.text.data.rows_per_batch
  stages_of.model.data.rows_per_batch = rows + 1
  assert stages_of.text.data.rows_per_batch == rows


@pytest.mark.parametrize("arg", ["", ",tiny"])
@pytest.mark.parametrize("modality", ["text", "media", "speech"])
def test_a_modality_alone_is_trained_with_what_the_reference_run_keeps_as_it_is(modality, arg):
  values = read(FOLDER / "alone.py", modality + arg)
  pipeline = stages.stage_of(values).build(values)
  first, second = (build_experiment(values.stages[name]) for name in pipeline.stages)
  folders = [
    [e.start, e.text.tokenizer, e.vision.tokenizer, e.vision.encoder, e.audio.codec]
    for e in (first, second)
  ]
  assert [[folder.removeprefix("runs/small/") for folder in half] for half in folders] == {
    "text": [["", "text/tokenizer.model", "", "", ""], ["@pretrain", "", "", "", ""]],
    # An encoder that is not named is trained; a tokenizer that is not is the start's.
    "media": [["look", "", "", "encoder", ""], ["@pretrain", "", "frames", "encoder", ""]],
    "speech": [["", "text/tokenizer.model", "", "", "codec"], ["@pretrain", "", "", "", ""]],
  }[modality]
  joint = [build_experiment(read(FOLDER / "small.py", arg[1:]).stages[n]) for n in pipeline.stages]
  for alone, whole in zip((first, second), joint):
    assert 0 < alone.train.steps < whole.train.steps / 2
    assert alone.data.rows_per_batch == whole.data.rows_per_batch


@pytest.mark.parametrize("arg", ["", "tiny"])
def test_the_second_half_of_the_reference_run_is_of_the_first_ones_shape(arg):
  values = read(FOLDER / "small.py", arg).stages
  halves = [build_experiment(values[name]) for name in ("pretrain", "model")]
  shapes = []
  for half in halves:
    task, optimizer, _ = parts(half)
    shapes.append(jax.tree.map(lambda x: x.shape, shape_of(task, optimizer, 0).params))
  bits = [half.model.vision.bits for half in halves]
  assert bits[0] < bits[1] and shapes[0].pop("vision") != shapes[1].pop("vision")
  assert shapes[0] == shapes[1]
  tokens = [half.data.row_length * half.data.rows_per_batch for half in halves]
  assert tokens[0] == tokens[1] and halves[1].data.row_length == 2 * halves[0].data.row_length


@pytest.mark.parametrize("arg", ["", "tiny"])
def test_the_reference_runs_visual_tokenizer_grows_and_the_model_follows_it(arg):
  values = read(FOLDER / "small.py", arg).stages
  assert values.frames.start == "@frames_12" and values.frames_12.start == "@pictures"
  grown, first, pictures = (values[name].tokenizer for name in ("frames", "frames_12", "pictures"))
  code = first.quantizer
  assert pictures.quantizer == code and values.pretrain.model.vision == code
  assert grown.quantizer == values.model.model.vision and grown.quantizer.bits > code.bits
  first.quantizer = grown.quantizer
  assert first == grown  # else it could not begin with its parameters
  used = {name: values[name].vision.tokenizer for name in ("look", "pretrain", "model")}
  assert used == {"look": "@frames_12", "pretrain": "", "model": "@frames"}


@pytest.mark.parametrize("name", sorted(f.stem for f in FILES) + sorted(PIPELINES))
def test_an_unknown_argument_is_refused(name):
  with pytest.raises(ValueError, match="unknown argument 'tinny'"):
    read(FOLDER / f"{name}.py", "tinny")
