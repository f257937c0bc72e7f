"""The visual encoder's experiment from beginning to end: data, training, scores.

A stage of the same command as all others: a config with `stage = "visual_encoder"` is run here. What it leaves can
be read as any converted encoder (`encoder_io.py`), so it is what `config.vision.encoder` of a model names.
"""

import dataclasses
import json
import pathlib
from typing import Any, Literal

import jax
import ml_collections
import numpy as np

from ernie_jax import config as config_lib
from ernie_jax.data.world.patch_labels import LabelledBatches, LabelledConfig, LabelledPictures
from ernie_jax.sharding import distributed
from ernie_jax.sharding.mesh import MeshConfig, make_mesh
from ernie_jax.train import checkpoint, loop
from ernie_jax.train.experiment import plain
from ernie_jax.train.model_io import write_config
from ernie_jax.train.run import writing
from ernie_jax.train.schedule import ScheduleConfig
from ernie_jax.train.stage_io import check_same, completed, read_stage_config
from ernie_jax.train.visual_encoder import EncoderTask, PatchNamer, accuracy
from ernie_jax.vision.vit import VitConfig
from ernie_jax.whole_file import written_whole

STAGE = "visual_encoder"
REPORT = "report.json"  # written last, so where it is the run is complete
SPLITS = ("validation", "held_out")

_FREE = ("data_dir", "cache_mb")  # what a run may change when it goes on


@dataclasses.dataclass(frozen=True)
class EncoderExperiment:
  """Everything that an encoder's run is: config.* of a config file.

  Attributes:
    name: for people.
    stage: what the training command dispatches on.
    seed: of parameters; the data has its own.
    data, vit, train, mesh: see their classes.
    examples: held-out pictures of each split that the report scores.
  """

  name: str = "visual_encoder"
  stage: Literal["visual_encoder"] = STAGE
  seed: int = 0
  data: LabelledConfig = LabelledConfig()
  vit: VitConfig = VitConfig()
  train: loop.TrainConfig = loop.TrainConfig(steps=1000, schedule=ScheduleConfig())
  mesh: MeshConfig = MeshConfig()
  examples: int = 512

  def __post_init__(self):
    self.vit.patches(self.data.side, self.data.side)
    if self.examples < 1:
      raise ValueError(f"examples must be at least 1, got {self.examples}")


def default_config() -> ml_collections.ConfigDict:
  """A ConfigDict with every key of an encoder's experiment at its default."""
  return ml_collections.ConfigDict(plain(EncoderExperiment()))


def build_experiment(values: Any) -> EncoderExperiment:
  """Checks a whole config.

  Raises:
    UserError: naming the key.
  """
  return config_lib.build(EncoderExperiment, dict(values), path="config")


def run_experiment(experiment: EncoderExperiment, workdir: pathlib.Path) -> None:
  """Runs what is left to do in `workdir`: training, scores.

  Raises:
    UserError: a bad config, data or mesh; a workdir that holds another experiment or cannot be written.
    Stopped: after SIGTERM.
  """
  e = experiment
  with writing(workdir):
    finished = max(checkpoint.steps(workdir / "checkpoints"), default=0)
    mesh = make_mesh(e.mesh)
    if finished:
      old = read_stage_config(workdir, key="vit", what="visual encoder")
      old = completed(old, EncoderExperiment)
      sections = ("vit", "data", "seed")
      check_same(workdir, old, config_lib.to_dict(e), sections, {"data": _FREE})
    part = distributed.host_slice(mesh)
    data = LabelledBatches(e.data, "train", e.vit.patch, host=part.index, hosts=part.count)
    if jax.process_index() == 0:
      write_config(workdir, config_lib.to_dict(e))
      print(describe(e, mesh, finished), flush=True)
    if finished >= e.train.steps:
      print(f"{workdir} is finished: step {finished} of {e.train.steps}")
    else:
      (workdir / REPORT).unlink(missing_ok=True)
      _train(e, workdir, mesh, data)
    data.close()
    if jax.process_index() == 0 and not (workdir / REPORT).exists():
      report(e, workdir)


def report(experiment: EncoderExperiment, workdir: pathlib.Path) -> dict[str, Any]:
  """Scores the newest checkpoint on held-out pictures; writes report.json."""
  params = checkpoint.load_params(workdir / "checkpoints")
  found: dict[str, Any] = {"step": max(checkpoint.steps(workdir / "checkpoints"))}
  for split in SPLITS:
    found[split] = accuracy(experiment.vit, params, held_out(experiment, split))
    scores = ", ".join(f"{name} {value:.3f}" for name, value in found[split].items())
    print(f"patches named right, {split.replace('_', ' ')}: {scores}")
  with written_whole(workdir / REPORT) as part:
    part.write_text(json.dumps(found, indent=2) + "\n")
  print(f"report: {workdir / REPORT}", flush=True)
  return found


def held_out(experiment: EncoderExperiment, split: str) -> LabelledPictures:
  """Pictures of a split that is not trained on, of worlds that name all that they hold."""
  worlds = tuple(world for world in experiment.data.worlds if not world.scene.nameless)
  config = dataclasses.replace(
    experiment.data, worlds=worlds or experiment.data.worlds, rows_per_batch=experiment.examples
  )
  batches = LabelledBatches(config, split, experiment.vit.patch)
  batch = next(batches)
  batches.close()
  return batch


def _train(e: EncoderExperiment, workdir: pathlib.Path, mesh, data: LabelledBatches) -> None:
  held = held_out(e, "validation")
  right = lambda state: accuracy(e.vit, state.params, held)
  patches = int(np.prod(e.vit.patches(e.data.side, e.data.side)))
  run = loop.Run(
    task=EncoderTask(e.vit, e.data.side),
    data=data,
    workdir=workdir,
    seed=e.seed,
    tokens_per_microbatch=e.data.rows_per_batch * patches,
    flops_per_token=picture_flops(e) / patches,
    mesh=mesh,
    mesh_config=e.mesh,
    evaluate=lambda state: {f"held_out/{name}": value for name, value in right(state).items()},
  )
  loop.train(e.train, run)


def picture_flops(experiment: EncoderExperiment) -> float:
  """FLOPs of one picture, forward and backward (twice the forward again)."""
  side, model = experiment.data.side, PatchNamer(experiment.vit)
  pixels = jax.ShapeDtypeStruct((1, side, side, 3), np.float32)
  params = jax.eval_shape(model.init, jax.random.key(0), pixels)
  return 3 * jax.jit(model.apply).lower(params, pixels).cost_analysis()["flops"]


def describe(experiment: EncoderExperiment, mesh: jax.sharding.Mesh, finished: int) -> str:
  """What is about to be done, for people."""
  e = experiment
  pixels = np.zeros((1, e.data.side, e.data.side, 3), np.float32)
  shapes = jax.eval_shape(PatchNamer(e.vit).init, jax.random.key(0), pixels)
  count = sum(x.size for x in jax.tree.leaves(shapes))
  lines = [
    f"experiment  {e.name}, seed {e.seed}",
    f"encoder     {count:,} parameters, {e.vit.depth} blocks, width {e.vit.width}",
    f"data        {e.data.rows_per_batch} pictures of {e.data.side} x {e.data.side} pixels",
    f"training    steps {finished} to {e.train.steps}, {picture_flops(e) / 1e6:.1f} MFLOP a picture",
    f"devices     {mesh.size} x {jax.devices()[0].device_kind}",
  ]
  return "\n".join(lines)
