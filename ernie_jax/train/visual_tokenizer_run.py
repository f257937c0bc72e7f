"""The visual tokenizer's experiment from beginning to end: data, teacher, training, scores.

A stage of the same command as all others: `python -m ernie_jax.train --config=experiments/NAME.py`; a
config with `stage = "visual_tokenizer"` is run here.
"""

import dataclasses
import json
import pathlib
from typing import Any, Literal

import jax
import ml_collections
import numpy as np
from jaxtyping import Int

from ernie_jax import config as config_lib
from ernie_jax.data.media_batches import (
  PixelBatches,
  PixelsConfig,
  first_frames,
  open_sources,
  pixel_batches,
)
from ernie_jax.data.media_sources import Examples
from ernie_jax.data.world.scene import COLOURS, PLACES, SHAPES, Scene, scene_from_json
from ernie_jax.errors import UserError
from ernie_jax.evaluate import tokenizer as evaluate
from ernie_jax.sharding import distributed
from ernie_jax.sharding.mesh import MeshConfig, make_mesh
from ernie_jax.train import checkpoint, loop
from ernie_jax.train.encoder_io import load_encoder
from ernie_jax.train.experiment import plain
from ernie_jax.train.model_io import write_config
from ernie_jax.train.run import writing
from ernie_jax.train.schedule import ScheduleConfig
from ernie_jax.train.stage_io import check_same_tokenizer
from ernie_jax.train.tokenizer_io import load_tokenizer, read_tokenizer_config
from ernie_jax.train.visual_tokenizer import MediaBatch, TokenizerLossConfig, TokenizerTask
from ernie_jax.vision.discriminator import DiscriminatorConfig
from ernie_jax.vision.grow import inflate, widen
from ernie_jax.vision.teacher import Teacher, VitTeacher, load_classifier, train_classifier
from ernie_jax.vision.tokenizer import TokenizerConfig, VisualTokenizer, initial_params
from ernie_jax.whole_file import written_whole

STAGE = "visual_tokenizer"
REPORT, SHEET = "report.json", "report.png"  # the first is written last: where it is, all is done
TEACHER = "teacher.safetensors"


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
  """The frozen network of the perceptual loss and of the semantic regulariser.

  Attributes:
    kind: "classifier": a small one of shapes and colours in each place, trained on the world's pictures
      at the start of the run; "vit": an encoder that the user converted.
    path: a classifier's file that an earlier run left (empty: train one), or the ViT's workdir.
    steps, pictures: of the classifier's training.
  """

  kind: Literal["classifier", "vit"] = "classifier"
  path: str = ""
  steps: int = 600
  pictures: int = 4000

  def __post_init__(self):
    for name in ("steps", "pictures"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
    if self.kind == "vit" and not self.path:
      raise ValueError("path must be the workdir of a vision transformer")


@dataclasses.dataclass(frozen=True)
class TokenizerExperiment:
  """Everything that a tokenizer's run is: config.* of a config file.

  Attributes:
    name: for people.
    stage: what the training command dispatches on.
    seed: of parameters and of every draw; the data has its own.
    data, tokenizer, loss, discriminator, teacher, train, mesh: see their classes.
    start: the workdir of a tokenizer to start from, an image tokenizer's to be inflated, one of fewer bits to get more;
      empty: none.
    examples: held-out examples that the report scores.
    metric_examples: those of the held-out error during training.
  """

  name: str = "visual_tokenizer"
  stage: Literal["visual_tokenizer"] = STAGE
  seed: int = 0
  data: PixelsConfig = PixelsConfig()
  tokenizer: TokenizerConfig = TokenizerConfig()
  loss: TokenizerLossConfig = TokenizerLossConfig()
  discriminator: DiscriminatorConfig = DiscriminatorConfig()
  teacher: TeacherConfig = TeacherConfig()
  train: loop.TrainConfig = loop.TrainConfig(steps=1000, schedule=ScheduleConfig())
  mesh: MeshConfig = MeshConfig()
  start: str = ""
  examples: int = 256
  metric_examples: int = 64

  def __post_init__(self):
    self.tokenizer.latent_frames(self.data.frames)
    for source in (*self.data.worlds, *self.data.folders, *self.data.tfds):
      if source.side != self.tokenizer.side:
        raise ValueError(
          f"{source.label} has pictures of side {source.side}; the tokenizer's sides"
          f" and strides make it {self.tokenizer.side}"
        )
    for name in ("examples", "metric_examples"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def default_config() -> ml_collections.ConfigDict:
  """A ConfigDict with every key of a tokenizer's experiment at its default."""
  return ml_collections.ConfigDict(plain(TokenizerExperiment()))


def build_experiment(values: Any) -> TokenizerExperiment:
  """Checks a whole config.

  Raises:
    UserError: naming the key.
  """
  return config_lib.build(TokenizerExperiment, dict(values), path="config")


def run_experiment(experiment: TokenizerExperiment, workdir: pathlib.Path) -> None:
  """Runs what is left to do in `workdir`: teacher, training, scores.

  Raises:
    UserError: a bad config, data or mesh; a workdir that holds another experiment or cannot be written.
    Stopped: after SIGTERM.
  """
  with writing(workdir):
    finished = max(checkpoint.steps(workdir / "checkpoints"), default=0)
    mesh = make_mesh(experiment.mesh)
    if finished:
      check_same_tokenizer(workdir, read_tokenizer_config(workdir), experiment, model="tokenizer")
    part = distributed.host_slice(mesh)
    data = _batches(experiment, part.index, part.count)
    held_out = Held(experiment, experiment.metric_examples)
    if jax.process_index() == 0:
      write_config(workdir, config_lib.to_dict(experiment))
      print(describe(experiment, mesh, finished), flush=True)
    if finished >= experiment.train.steps:
      print(f"{workdir} is finished: step {finished} of {experiment.train.steps}")
    else:
      (workdir / REPORT).unlink(missing_ok=True)
      _train(experiment, workdir, mesh, data, held_out)
    data.close()
    if jax.process_index() == 0 and not (workdir / REPORT).exists():
      report(experiment, workdir)


def make_task(experiment: TokenizerExperiment, teacher: Teacher | None = None) -> TokenizerTask:
  """The task, with its teacher and with the parameters that it starts from."""
  e = experiment
  return TokenizerTask(
    e.tokenizer, e.loss, discriminator=e.discriminator, teacher=teacher, start=_start(e)
  )


def report(experiment: TokenizerExperiment, workdir: pathlib.Path) -> dict[str, Any]:
  """Scores the newest checkpoint on held-out examples; writes report.png, then report.json."""
  saved = load_tokenizer(workdir)
  held = Held(experiment, experiment.examples)
  done = evaluate.reconstruct(saved.config, saved.params, held.video)
  found = {"step": saved.step, **evaluate.score(done, held.examples)}
  evaluate.write_sheet(workdir / SHEET, done)
  with written_whole(workdir / REPORT) as part:
    part.write_text(json.dumps(found, indent=2) + "\n")
  print(f"{evaluate.describe(found)}\nreport: {workdir / REPORT} and {SHEET}", flush=True)
  return found


class Held:
  """Held-out examples, and their pixels.

  Attributes:
    examples: as many as asked, or all there are; each source gives an equal share.
    video: uint8 [N, T, S, S, 3].
  """

  def __init__(self, experiment: TokenizerExperiment, count: int):
    sources, frames = open_sources(experiment.data, "validation"), experiment.data.frames
    each = -(-count // len(sources))
    chosen = [(s, i) for s in sources for i in range(min(each, len(s)))][:count]
    self.examples = [source[i] for source, i in chosen]
    self.video = np.stack([first_frames(source, i, frames) for source, i in chosen])


class _Batches:
  """Pixels as the task takes them."""

  def __init__(self, pixels: PixelBatches):
    self.pixels = pixels
    self.get_state, self.set_state, self.close = pixels.get_state, pixels.set_state, pixels.close

  def __next__(self) -> MediaBatch:
    return MediaBatch(video=next(self.pixels))


def _batches(experiment: TokenizerExperiment, host: int, hosts: int) -> _Batches:
  return _Batches(pixel_batches(experiment.data, host=host, hosts=hosts))


def _train(experiment: TokenizerExperiment, workdir: pathlib.Path, mesh, data, held: Held) -> None:
  e = experiment
  teacher = get_teacher(e, workdir) if e.loss.needs_teacher else None
  elements = e.tokenizer.latent_frames(e.data.frames) * e.tokenizer.quantizer.elements
  run = loop.Run(
    task=make_task(e, teacher),
    data=data,
    workdir=workdir,
    seed=e.seed,
    tokens_per_microbatch=e.data.rows_per_batch * elements,
    flops_per_token=video_flops(e.tokenizer, e.data.frames) / elements,
    mesh=mesh,
    mesh_config=e.mesh,
    evaluate=lambda state: held_out_error(e, state.params["tokenizer"], held),
  )
  loop.train(e.train, run)


def held_out_error(experiment: TokenizerExperiment, params: Any, held: Held) -> dict[str, float]:
  """PSNR on held-out examples, while training."""
  done = evaluate.reconstruct(experiment.tokenizer, params, held.video)
  return {"held_out/psnr": evaluate.psnr(done.before, done.after)}


def video_flops(config: TokenizerConfig, frames: int) -> float:
  """FLOPs of one video through the tokenizer, forward and backward (twice the forward again)."""
  params = jax.eval_shape(lambda: initial_params(config, jax.random.key(0)))
  video = jax.ShapeDtypeStruct((1, frames, config.side, config.side, 3), np.float32)
  run = jax.jit(lambda p, x: VisualTokenizer(config).apply({"params": p}, x).video)
  return 3 * run.lower(params, video).cost_analysis()["flops"]


def get_teacher(experiment: TokenizerExperiment, workdir: pathlib.Path) -> Teacher:
  """The teacher: converted by the user, or the workdir's classifier, trained there on the first run.

  Raises:
    UserError: it cannot be read, or there are no scenes to train a classifier on.
  """
  t = experiment.teacher
  if t.kind == "vit":
    saved = load_encoder(t.path, "vit")
    return VitTeacher(params=saved.params, config=saved.config)
  path = pathlib.Path(t.path) if t.path else workdir / "checkpoints" / "assets" / TEACHER
  if t.path or path.exists():
    return load_classifier(path)
  print("training the teacher", flush=True)
  if not experiment.data.worlds:
    raise UserError(
      "config.teacher.path is needed: without config.data.worlds there are no labels to train a"
      " classifier on"
    )
  (source, *_) = open_sources(experiment.data, "train")
  pictures, labels = _labelled(source, t.pictures)
  teacher = train_classifier(
    pictures, labels, classes=label_classes(), steps=t.steps, seed=experiment.seed
  )
  if jax.process_index() == 0:
    teacher.save(path)
  return teacher


def _labelled(source: Examples, most: int) -> tuple[np.ndarray, np.ndarray]:
  examples = [source[i] for i in range(min(most, len(source)))]
  labels = np.stack([scene_labels(scene_from_json(example.scene)) for example in examples])
  return np.stack([example.media[0] for example in examples]), labels


def label_classes() -> tuple[int, ...]:
  """Classes of each of a scene's labels: in each place a shape or none, then a colour or none."""
  return (len(SHAPES) + 1,) * len(PLACES) + (len(COLOURS) + 1,) * len(PLACES)


def scene_labels(scene: Scene) -> Int[np.ndarray, "n"]:
  """What lies where in the first frame, as `label_classes` counts it; 0 for nothing."""
  shapes, colours = np.zeros((2, len(PLACES)), np.int32)
  for thing in scene.objects:
    place = PLACES.index(thing.place)
    shapes[place] = 1 + SHAPES.index(thing.shape)
    colours[place] = 1 + tuple(COLOURS).index(thing.colour)
  return np.concatenate([shapes, colours])


def describe(experiment: TokenizerExperiment, mesh: jax.sharding.Mesh, finished: int) -> str:
  """What is about to be done, for people."""
  e, c = experiment, experiment.tokenizer
  shapes = jax.eval_shape(lambda: initial_params(c, jax.random.key(0)))
  count = sum(x.size for x in jax.tree.leaves(shapes))
  lines = [
    f"experiment  {e.name}, seed {e.seed}",
    f"tokenizer   {count / 1e6:.2f} M parameters, {c.spatial}x in space, {c.temporal}x in time,"
    f" {c.quantizer.elements} elements of {c.quantizer.bits} bits a frame",
    f"data        {e.data.rows_per_batch} rows of {e.data.frames} x {c.side} x {c.side} pixels",
    f"training    steps {finished} to {e.train.steps},"
    f" {video_flops(c, e.data.frames) / 1e6:.1f} MFLOP a row",
    f"devices     {mesh.size} x {jax.devices()[0].device_kind}",
  ]
  return "\n".join(lines)


def _start(experiment: TokenizerExperiment) -> Any:
  """The parameters to start from, inflated where the start is an image tokenizer, with more bits where it has fewer; None
  for fresh ones.

  Raises:
    UserError: the start is of another shape.
  """
  if not experiment.start:
    return None
  saved, config = load_tokenizer(experiment.start), experiment.tokenizer
  fewer, code = saved.config.quantizer, config.quantizer
  wider = dataclasses.replace(
    saved.config, quantizer=dataclasses.replace(fewer, bits=max(fewer.bits, code.bits))
  )
  of_time = {n: getattr(config, n) for n in ("temporal", "temporal_kernel", "encoder_time")}
  same = dataclasses.replace(wider, **of_time)
  if same != config or saved.config.temporal not in (1, config.temporal):
    raise UserError(
      f"config.start: the tokenizer of {experiment.start} is of another shape than config.tokenizer"
    )
  params = widen(saved.params, wider) if wider != saved.config else saved.params
  return params if wider == config else inflate(params, config)
