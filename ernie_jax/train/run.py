"""An experiment from beginning to end: tokenizer, data, training, evaluation; each stage once.

`prepare` is what a notebook calls to get the parts; `run_experiment` is the whole.
"""

import pathlib
from typing import Any

import jax

from ernie_jax import config as config_lib
from ernie_jax.backbone.parameters import model_cost
from ernie_jax.data.held_out import HeldOut
from ernie_jax.data.pipeline import held_out_sets, training_pipeline, training_texts
from ernie_jax.elastic.family import members_of
from ernie_jax.errors import UserError
from ernie_jax.sharding import distributed
from ernie_jax.sharding.mesh import make_mesh
from ernie_jax.sharding.rules import validate_model
from ernie_jax.text.tokenizer import Tokenizer, train_tokenizer
from ernie_jax.train import checkpoint, loop
from ernie_jax.train.experiment import Experiment
from ernie_jax.train.model_io import TOKENIZER, read_config, write_config
from ernie_jax.train.pretrain import Pretrain
from ernie_jax.train.state import TrainState


def run_experiment(
  experiment: Experiment, workdir: pathlib.Path, *, with_report: bool = True
) -> None:
  """Runs what is left to do in `workdir`; the last stage is the report.

  Raises:
    UserError: a bad config, data or mesh; a workdir that holds another experiment.
    Stopped: after SIGTERM.
  """
  workdir.mkdir(parents=True, exist_ok=True)
  folder = workdir / "checkpoints"
  finished = max(checkpoint.steps(folder), default=0)
  _same_experiment(experiment, workdir, started=finished > 0)
  mesh = make_mesh(experiment.mesh)
  _check_mesh(experiment, mesh)
  tokenizer = get_tokenizer(experiment, workdir)
  if jax.process_index() == 0:
    write_config(workdir, config_lib.to_dict(experiment))
    print(describe(experiment, mesh, finished), flush=True)
  if finished >= experiment.train.steps:
    print(f"{workdir} is finished: step {finished} of {experiment.train.steps}")
  else:
    train_experiment(experiment, workdir, tokenizer, mesh)
  if with_report:
    _final_report(workdir)


def train_experiment(
  experiment: Experiment, workdir: pathlib.Path, tokenizer: Tokenizer, mesh: jax.sharding.Mesh
) -> TrainState:
  """The training stage; resumes from the newest checkpoint."""
  part = distributed.host_slice(mesh)
  data = training_pipeline(experiment.data, tokenizer, host=part.index, hosts=part.count)
  held_out = held_out_sets(experiment.data, tokenizer, max_rows=experiment.evaluation.rows)
  task = Pretrain(experiment.model, experiment.elastic, experiment.objective)
  length = experiment.data.row_length
  run = loop.Run(
    task=task,
    data=data,
    workdir=workdir,
    seed=experiment.seed,
    tokens_per_microbatch=experiment.data.rows_per_batch * length,
    flops_per_token=model_cost(experiment.model, length).flops_per_token,
    dtype=experiment.model.dtype,
    mesh=mesh,
    mesh_config=experiment.mesh,
    evaluate=_held_out_loss(experiment, held_out),
  )
  try:
    return loop.train(experiment.train, run)
  finally:
    data.close()


def get_tokenizer(experiment: Experiment, workdir: pathlib.Path) -> Tokenizer:
  """The workdir's tokenizer: stored with its checkpoints, trained or copied there on the first run."""
  path = workdir / "checkpoints" / "assets" / TOKENIZER
  if not path.exists():
    if jax.process_index() == 0:
      _make_tokenizer(experiment).save(path)
    if jax.process_count() > 1:
      jax.experimental.multihost_utils.sync_global_devices("tokenizer")
  tokenizer = Tokenizer.load(path)
  if tokenizer.vocab_size > experiment.model.vocab_size:
    raise UserError(
      f"config.model.vocab_size ({experiment.model.vocab_size}) is below the tokenizer's"
      f" {tokenizer.vocab_size} ids"
    )
  return tokenizer


def _make_tokenizer(experiment: Experiment) -> Tokenizer:
  if experiment.text.tokenizer:
    return Tokenizer.load(experiment.text.tokenizer)
  print("training the text tokenizer", flush=True)
  texts = training_texts(experiment.data, max_chars=experiment.text.training_chars)
  return train_tokenizer(texts, vocab_size=experiment.model.vocab_size)


def describe(experiment: Experiment, mesh: jax.sharding.Mesh, finished: int) -> str:
  """What is about to be done, for people."""
  e, length = experiment, experiment.data.row_length
  cost = model_cost(e.model, length)
  tokens = e.data.rows_per_batch * length
  members = ", ".join(m.name for m in members_of(e.elastic, e.model))
  axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items() if size > 1)
  lines = [
    f"experiment  {e.name}, seed {e.seed}",
    f"model       {e.model.depth} layers, width {e.model.width}, {e.model.experts} experts top-{e.model.top_k}:"
    f" {cost.params_total / 1e6:.2f} M parameters, {cost.params_active / 1e6:.2f} M active",
    f"family      {members}",
    f"data        rows of {length} tokens, {tokens} tokens a micro-batch,"
    f" {e.train.ramp.end} micro-batch(es) a step",
    f"training    steps {finished} to {e.train.steps},"
    f" {cost.flops_per_token / 1e6:.1f} MFLOP a token, {e.model.dtype}",
    f"devices     {mesh.size} x {jax.devices()[0].device_kind}" + (f" as {axes}" if axes else ""),
  ]
  return "\n".join(lines)


def _held_out_loss(experiment: Experiment, held_out: list[HeldOut]):
  """Loss of the full model on a few held-out rows, while training."""
  from ernie_jax.evaluate.held_out import score

  def evaluate(state: TrainState) -> dict[str, float]:
    found = score(state.params, state.variables.bias, held_out, model=experiment.model)
    return {"held_out/loss": found.loss, "held_out/bits_per_byte": found.bits_per_byte}

  return evaluate


def _final_report(workdir: pathlib.Path) -> None:
  """The family's table, a sample and the figures, once."""
  if jax.process_index() != 0 or (workdir / "report.png").exists():
    return
  from ernie_jax.evaluate.report import report

  report(workdir)


def _same_experiment(experiment: Experiment, workdir: pathlib.Path, *, started: bool) -> None:
  """A checkpoint must be of this model and data; what may change is how long and how fast."""
  if not started:
    return
  old, new = read_config(workdir), config_lib.to_dict(experiment)
  for key in ("model", "data", "seed"):
    path = _first_difference(old.get(key), new[key], f"config.{key}")
    if path:
      raise UserError(
        f"--workdir: {workdir} holds a checkpoint of another config: {path}; use another workdir or"
        " the old value"
      )


def _first_difference(old: Any, new: Any, path: str) -> str:
  """`KEY was OLD, is NEW` of the first key that differs; empty if none does."""
  if isinstance(old, dict) and isinstance(new, dict):
    for key in new:
      found = _first_difference(old.get(key), new[key], f"{path}.{key}")
      if found:
        return found
    return ""
  return "" if old == new else f"{path} was {old!r}, is {new!r}"


def _check_mesh(experiment: Experiment, mesh: jax.sharding.Mesh) -> None:
  m, d = experiment.model, experiment.data
  sizes = {
    "config.model.heads": ("heads", m.heads),
    "config.model.kv_heads": ("kv_heads", m.kv_heads),
    "config.model.width": ("embed", m.width),
    "config.model.vocab_size": ("vocab", m.vocab_size),
    "config.data.rows_per_batch": ("batch", d.rows_per_batch),
    "config.data.row_length": ("length", d.row_length),
  }
  if m.moe_layers:
    sizes["config.model.experts"] = ("experts", m.experts)
    sizes["config.model.expert_width"] = ("expert_mlp", m.expert_width)
  widths = {"shared_width": m.shared_width, "dense_width": m.dense_width, "mtp_width": m.mtp_width}
  sizes |= {f"config.model.{k}": ("mlp", v) for k, v in widths.items() if v}
  validate_model(mesh, sizes)
