"""The tokenizer's task: every term trains, the game is two-sided, and the command runs to its report."""

import dataclasses
import functools
import json
import pathlib
import runpy

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ernie_jax
from ernie_jax import config as config_lib
from ernie_jax.data.media_batches import PixelBatches
from ernie_jax.data.media_example import MediaExample
from ernie_jax.errors import UserError
from ernie_jax.train import stages, tokenizer_io, visual_tokenizer_run
from ernie_jax.train.model_io import write_config
from ernie_jax.train.optimizer import OptimizerConfig, make_optimizer
from ernie_jax.train.schedule import ScheduleConfig, make_schedule
from ernie_jax.train.stage_io import check_same_tokenizer
from ernie_jax.train.state import create
from ernie_jax.train.step import make_step
from ernie_jax.train.visual_tokenizer import MediaBatch, TokenizerLossConfig, TokenizerTask
from ernie_jax.vision import losses
from ernie_jax.vision.discriminator import DiscriminatorConfig
from ernie_jax.vision.grow import inflate
from ernie_jax.vision.quantizer import QuantizerConfig
from ernie_jax.vision.teacher import Classifier, ClassifierTeacher
from ernie_jax.vision.tokenizer import TokenizerConfig, initial_params

IMAGE = TokenizerConfig(
  quantizer=QuantizerConfig(sides=(1, 2, 4), bits=4), patch=4, widths=(8,), blocks=1
)
VIDEO = dataclasses.replace(IMAGE, temporal=4)
EVERYTHING = TokenizerLossConfig(
  detail=2.0,
  edges=0.1,
  entropy=0.1,
  scale_drop=0.3,
  perceptual=0.1,
  semantic=0.1,
  adversarial=0.1,
  lecam=0.01,
)
SMALL = DiscriminatorConfig(widths=(4, 8))


@functools.cache
def check_tokenizer(experiment, workdir):
  """Whether a run may go on in a workdir."""
  check_same_tokenizer(
    workdir, visual_tokenizer_run.read_tokenizer_config(workdir), experiment, model="tokenizer"
  )


def teacher() -> ClassifierTeacher:
  model = Classifier((2,))
  init = jax.jit(lambda key: nn.unbox(model.init(key, jnp.zeros((1, 16, 16, 3)))["params"]))
  return ClassifierTeacher(params=init(jax.random.key(7)), classes=(2,))


def batch(frames, rows=4):
  rng = np.random.default_rng(0)
  video = rng.integers(0, 255, (rows, frames, 16, 16, 3)).astype(np.uint8)
  return MediaBatch(video=video)


def stepped(task, micro, steps=1):
  """State before and after some steps, and the last report."""
  shapes = jax.eval_shape(lambda: nn.unbox(task.init(jax.random.key(0))[0]))
  schedule = make_schedule(ScheduleConfig(warmup_steps=0), 10)
  optimizer = make_optimizer(OptimizerConfig(), schedule, shapes)
  before = create(task, optimizer, 0)
  stacked = jax.tree.map(lambda x: x[None], micro)
  step = jax.jit(make_step(task, optimizer, schedule))
  after, report = before, None
  for _ in range(steps):
    after, report = step(after, stacked, jnp.asarray(1))
  return before, after, report


@pytest.mark.parametrize("config, frames", [(IMAGE, 1), (VIDEO, 5)])
def test_a_step_with_every_term_moves_every_network(config, frames):
  task = TokenizerTask(config, EVERYTHING, discriminator=SMALL, teacher=teacher())
  before, after, report = stepped(task, batch(frames))
  assert report.finite
  names = ["squared", "edges", "commitment", "codebook", "entropy", "perceptual", "semantic"]
  names += ["generator", "discriminator", "lecam"]
  assert {f"loss/{n}" for n in names} <= set(report.metrics)
  np.testing.assert_allclose(
    report.loss, sum(v for n, v in report.metrics.items() if n.startswith("loss/")), rtol=1e-5
  )
  moved = jax.tree.map(lambda a, b: bool((a != b).any()), before.params, after.params)
  assert set(moved) == {"tokenizer", "discriminator", "semantic"}
  assert all(jax.tree.leaves(moved))
  assert float(after.variables.real) != 0


def test_the_default_trains_the_tokenizer_alone():
  _, after, report = stepped(TokenizerTask(IMAGE, TokenizerLossConfig()), batch(1), steps=8)
  assert set(after.params) == {"tokenizer"}
  _, _, first = stepped(TokenizerTask(IMAGE, TokenizerLossConfig()), batch(1))
  assert float(report.loss) < float(first.loss)
  assert report.metrics["bits/usage"].shape == (3,)


def test_before_its_start_the_game_has_no_part():
  late = dataclasses.replace(TokenizerLossConfig(), adversarial=0.1, adversarial_start=1)
  task = TokenizerTask(IMAGE, late, discriminator=SMALL)
  _, after, report = stepped(task, batch(1))
  _, plain_after, _ = stepped(TokenizerTask(IMAGE, TokenizerLossConfig()), batch(1))
  assert float(report.metrics["loss/generator"]) == 0
  assert float(after.variables.real) == 0
  for a, b in zip(
    jax.tree.leaves(after.params["tokenizer"]), jax.tree.leaves(plain_after.params["tokenizer"])
  ):
    np.testing.assert_allclose(a, b, atol=1e-6)
  _, _, second = stepped(task, batch(1), steps=2)
  assert float(second.metrics["loss/discriminator"]) > 0


def test_each_side_of_the_game_trains_itself_alone():
  only = TokenizerLossConfig(squared=0.0, commitment=0.0, codebook=0.0, adversarial=1.0, lecam=0.0)
  task = TokenizerTask(IMAGE, only, discriminator=SMALL)
  params, variables = task.init(jax.random.key(0))
  params = nn.unbox(params)

  @jax.jit
  def grads(params):
    def term(name):
      def of(p):
        return task.loss(p, variables, batch(1), jax.random.key(1), jnp.asarray(0)).metrics[name]

      return jax.grad(of)(params)

    return term("loss/generator"), term("loss/discriminator")

  generator, discriminator = grads(params)
  some = lambda tree: any(bool(np.any(x != 0)) for x in jax.tree.leaves(tree))
  assert some(generator["tokenizer"]) and not some(generator["discriminator"])
  assert some(discriminator["discriminator"]) and not some(discriminator["tokenizer"])


def test_a_task_starts_from_given_parameters():
  start = inflate(initial_params(IMAGE, jax.random.key(5)), VIDEO)
  task = TokenizerTask(VIDEO, TokenizerLossConfig(), start=start)
  found = nn.unbox(jax.jit(task.init)(jax.random.key(0))[0])["tokenizer"]
  jax.tree.map(np.testing.assert_array_equal, found, start)


def test_averages_of_logits_move_slowly():
  task = TokenizerTask(IMAGE, dataclasses.replace(TokenizerLossConfig(), adversarial=1.0))
  counts = {
    "logits": losses.LogitMeans(real=jnp.array(4.0), fake=jnp.array(-2.0)),
    "microbatches": jnp.array(2.0),
  }
  zero = losses.LogitMeans(real=jnp.zeros(()), fake=jnp.zeros(()))
  found = task.update(zero, counts, jnp.asarray(0))
  np.testing.assert_allclose([found.real, found.fake], [0.02, -0.01], rtol=1e-5)


def test_a_loss_that_needs_a_teacher_is_refused_without():
  with pytest.raises(ValueError, match="teacher"):
    TokenizerTask(IMAGE, dataclasses.replace(TokenizerLossConfig(), perceptual=1.0))


class Numbered:
  """Examples that say which they are."""

  key = "numbered"

  def __init__(self, count=16, frames=5, value=0):
    self.count, self.frames, self.value = count, frames, value
    self.fingerprint = f"{count} {value}"

  def __len__(self):
    return self.count

  def __getitem__(self, index):
    media = np.full((self.frames, 4, 4, 3), index + self.value, np.uint8)
    return MediaExample(media=media, name=f"numbered {index}")


def pixels(**options):
  options = {"frames": 1, "rows_per_batch": 8, **options}
  return PixelBatches([Numbered(), Numbered(value=100)], [3.0, 1.0], **options)


def test_batches_resume_where_they_stopped_and_hosts_share_them():
  whole = pixels()
  first, second = next(whole), next(whole)
  resumed = pixels()
  resumed.set_state({"next_row": 8, "sources": whole.get_state()["sources"]})
  np.testing.assert_array_equal(next(resumed), second)
  assert resumed.get_state() == whole.get_state()
  parts = [next(pixels(host=h, hosts=2, cache_mb=0)) for h in range(2)]
  np.testing.assert_array_equal(np.concatenate(parts), first)
  shares = np.mean([next(whole)[:, 0, 0, 0, 0] >= 100 for _ in range(40)])
  assert 0.15 < shares < 0.35


def test_batches_refuse_other_media_and_too_few_frames():
  with pytest.raises(UserError, match="changed after the checkpoint"):
    pixels().set_state({"next_row": 0, "sources": ["other"]})
  with pytest.raises(UserError, match="5 frame"):
    next(pixels(frames=9))


def test_pictures_among_videos_stand_still():
  sources = [Numbered(frames=1), Numbered(value=100)]
  batches = PixelBatches(sources, [1.0, 1.0], frames=5, rows_per_batch=8)
  found = np.concatenate([next(batches) for _ in range(4)])
  assert found.shape == (32, 5, 4, 4, 3) and (found == found[:, :1]).all()
  assert (found < 100).any() and (found >= 100).any()


FILE = pathlib.Path(ernie_jax.__file__).parents[1] / "experiments" / "visual_tokenizer.py"


def from_file(arg):
  config = runpy.run_path(FILE)["get_config"](arg)
  return stages.stage_of(config).build(config)


@pytest.mark.parametrize(
  "arg, bits, frames",
  [("", 16, 1), ("bits=8", 8, 1), ("bits=12,video", 12, 9), ("tiny,video", 20, 9)],
)
def test_the_experiment_builds_with_its_arguments(arg, bits, frames):
  e = from_file(arg)
  assert e.tokenizer.quantizer.bits == bits
  assert e.data.frames == e.data.worlds[0].scene.frames == frames
  assert e.tokenizer.temporal == (4 if frames > 1 else 1)
  params = jax.eval_shape(
    lambda: nn.unbox(visual_tokenizer_run.make_task(e).init(jax.random.key(0))[0])
  )
  assert params["tokenizer"]["project"]["kernel"].shape[-1] == bits


def test_unknown_arguments_and_stages_are_refused():
  for arg in ("tinny", "bits=", "bits=x"):
    with pytest.raises(ValueError, match="unknown argument"):
      from_file(arg)
  with pytest.raises(UserError, match="stage must be one of"):
    stages.stage_of({"stage": "nothing"})


@functools.cache
def tiny_experiment(data_dir: str):
  config = visual_tokenizer_run.default_config()
  world = {"scene": {"max_objects": 1}, "train": 24, "validation": 4, "held_out": 1, "captions": 1}
  config.data.update(worlds=(world,), data_dir=data_dir, rows_per_batch=4)
  config.tokenizer.update(widths=(8,), blocks=1)
  config.loss.perceptual = 0.1
  config.mesh.data = 1
  config.teacher.update(steps=2, pictures=8)
  config.train.update(steps=4, log_every=1, evaluate_every=4, checkpoint_every=2)
  config.update(examples=4, metric_examples=4)
  return visual_tokenizer_run.build_experiment(config)


def test_an_experiment_runs_once_to_its_report_and_is_read_back(tmp_path, capsys):
  e = tiny_experiment(str(tmp_path / "data"))
  visual_tokenizer_run.run_experiment(e, tmp_path / "run")
  found = json.loads((tmp_path / "run" / "report.json").read_text())
  assert found["step"] == 4 and len(found["usage"]) == 4
  assert found["ceiling"]["all_correct"] == 1.0 and "foreground_psnr" in found
  assert (tmp_path / "run" / "report.png").stat().st_size > 0
  saved = tokenizer_io.load_tokenizer(tmp_path / "run")
  assert saved.config == e.tokenizer and saved.step == 4
  jax.tree.map(lambda a, b: None, saved.params, initial_params(e.tokenizer, jax.random.key(0)))
  capsys.readouterr()
  visual_tokenizer_run.run_experiment(e, tmp_path / "run")
  assert "is finished: step 4 of 4" in capsys.readouterr().out

  other = dataclasses.replace(e, tokenizer=dataclasses.replace(e.tokenizer, blocks=2))
  with pytest.raises(UserError, match=r"config\.tokenizer\.blocks was 1, is 2"):
    visual_tokenizer_run.run_experiment(other, tmp_path / "run")

  video = dataclasses.replace(
    e, tokenizer=dataclasses.replace(e.tokenizer, temporal=4), start=str(tmp_path / "run")
  )
  start = visual_tokenizer_run.make_task(video, teacher()).start
  np.testing.assert_array_equal(
    start["encoder"]["stem"]["kernel"][-1], saved.params["encoder"]["stem"]["kernel"][0]
  )
  code = video.tokenizer.quantizer
  with_bits = lambda bits: dataclasses.replace(
    video,
    tokenizer=dataclasses.replace(video.tokenizer, quantizer=dataclasses.replace(code, bits=bits)),
  )
  more = visual_tokenizer_run.make_task(with_bits(code.bits + 3), teacher())
  assert more.start["encoder"]["stem"]["kernel"].shape[0] == 4  # inflated as well, in the same step
  np.testing.assert_array_equal(
    more.start["project"]["kernel"][..., : code.bits], start["project"]["kernel"]
  )
  fresh = initial_params(with_bits(code.bits + 3).tokenizer, jax.random.key(0))
  shapes = lambda tree: jax.tree.map(lambda x: x.shape, tree)
  assert shapes(more.start) == shapes(fresh)
  with pytest.raises(UserError, match=r"config\.start: .* of another shape"):
    visual_tokenizer_run.make_task(with_bits(code.bits - 1), teacher())


@pytest.mark.parametrize(
  ("section", "key", "value"),
  [
    ("teacher", "steps", 3),
    ("teacher", "path", "elsewhere.safetensors"),
    ("discriminator", "widths", (4, 8)),
    ("start", None, "a/tokenizer"),
  ],
)
def test_a_run_that_goes_on_keeps_what_it_was_trained_with(tmp_path, section, key, value):
  e = tiny_experiment(str(tmp_path / "data"))
  values = config_lib.to_dict(e)
  del values["loss"]["detail"]  # as an earlier version wrote it; its default is what it had
  write_config(tmp_path, values)
  check_tokenizer(e, tmp_path)
  changed = dataclasses.replace(getattr(e, section), **{key: value}) if key else value
  where = r"\.".join(filter(None, ("config", section, key)))
  with pytest.raises(UserError, match=rf"{where} was .*, is "):
    check_tokenizer(dataclasses.replace(e, **{section: changed}), tmp_path)


def test_where_the_start_of_a_run_lies_may_change(tmp_path):
  e = dataclasses.replace(tiny_experiment(str(tmp_path / "data")), start="runs/pictures")
  write_config(tmp_path, config_lib.to_dict(e))
  check_tokenizer(dataclasses.replace(e, start="moved/pictures"), tmp_path)
  with pytest.raises(UserError, match=r"config\.start was 'runs/pictures', is ''"):
    check_tokenizer(dataclasses.replace(e, start=""), tmp_path)


def test_a_workdir_without_a_tokenizer_is_told_in_one_line(tmp_path):
  with pytest.raises(UserError, match="no visual tokenizer"):
    tokenizer_io.load_tokenizer(tmp_path)
  (tmp_path / "config.json").write_text('{"model": {}}')
  with pytest.raises(UserError, match="holds no visual tokenizer"):
    tokenizer_io.load_tokenizer(tmp_path)


@pytest.mark.parametrize(
  "change, message",
  [
    ({"data": {"frames": 3}, "tokenizer": {"temporal": 4}}, "1 \\+ 4m"),
    ({"tokenizer": {"widths": (8, 8)}}, "side 32; the tokenizer's sides and strides make it 64"),
    ({"loss": {"squared": -1.0}}, "squared must not be negative"),
    ({"teacher": {"kind": "vit"}}, "path must be the workdir"),
  ],
)
def test_impossible_values_are_told_in_one_line(change, message):
  config = visual_tokenizer_run.default_config()
  for section, values in change.items():
    config[section].update(values)
  with pytest.raises(UserError, match=message):
    visual_tokenizer_run.build_experiment(config)
