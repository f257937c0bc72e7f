"""An experiment from beginning to end: tokenizer, data, training, evaluation; each stage once.

`prepare` is what a notebook calls to get the parts; `run_experiment` is the whole.
"""

import contextlib
import errno
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import multihost_utils

from ernie_jax import config as config_lib
from ernie_jax.backbone.parameters import model_cost
from ernie_jax.data.media_rows import open_media
from ernie_jax.data.pipeline import training_pipeline, training_texts
from ernie_jax.data.speech_batches import open_all
from ernie_jax.data.text_files import Pieces, prepare
from ernie_jax.elastic.family import members_of
from ernie_jax.errors import UserError
from ernie_jax.media import Vision
from ernie_jax.sharding import distributed
from ernie_jax.sharding.mesh import make_mesh
from ernie_jax.sharding.rules import validate_model
from ernie_jax.speech import Speech
from ernie_jax.text.tokenizer import Tokenizer, train_tokenizer
from ernie_jax.train import checkpoint, loop
from ernie_jax.train.experiment import Experiment
from ernie_jax.train.held_out_loss import coder_of, held_out_loss, media_shapes
from ernie_jax.train.model_io import TOKENIZER, SavedModel, read_config, stored_bits, write_config
from ernie_jax.train.pretrain import Pretrain
from ernie_jax.train.speech_io import get_speech
from ernie_jax.train.stage_io import check_same, completed, first_difference
from ernie_jax.train.start_io import begin_at, load_start
from ernie_jax.train.state import TrainState
from ernie_jax.train.vision_io import before_switch, code_name, get_vision, switch_tokenizer

REPORT = "report.png"  # written last, so where it is the run is complete
_UNWRITABLE = {
  getattr(errno, name)
  for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EEXIST", "ENOTDIR")
}


def run_experiment(
  experiment: Experiment, workdir: pathlib.Path, *, with_report: bool = True
) -> None:
  """Runs what is left to do in `workdir`; the last stage is the report.

  Everything that can be checked is checked before the workdir is touched.

  Raises:
    UserError: a bad config, data or mesh; a workdir that holds another experiment or cannot be
      written.
    Stopped: after SIGTERM.
  """
  with writing(workdir):
    finished = max(checkpoint.steps(workdir / "checkpoints"), default=0)
    mesh = make_mesh(experiment.mesh)
    _check_mesh(experiment, mesh)
    if finished:
      _check_same_experiment(experiment, workdir)
    start = None if finished else load_start(experiment)
    _check_data(experiment)
    vision = get_vision(experiment, workdir, start)
    speech = get_speech(experiment, workdir, start)
    tokenizer = get_tokenizer(experiment, workdir, start)
    if jax.process_index() == 0:
      write_config(workdir, config_lib.to_dict(experiment))
      print(describe(experiment, mesh, finished), flush=True)
    complete = finished >= experiment.train.steps
    if complete:
      print(f"{workdir} is finished: step {finished} of {experiment.train.steps}")
    else:
      (workdir / REPORT).unlink(missing_ok=True)  # it tells of an earlier step
      train_experiment(experiment, workdir, tokenizer, mesh, vision, speech, start)
    # A report that is there after training was asked for meanwhile, of a step before the last.
    if with_report and not (complete and (workdir / REPORT).exists()):
      _final_report(workdir)


def train_experiment(
  experiment: Experiment,
  workdir: pathlib.Path,
  tokenizer: Tokenizer,
  mesh: jax.sharding.Mesh,
  vision: Vision | None = None,
  speech: Speech | None = None,
  start: SavedModel | None = None,
) -> TrainState:
  """The training stage; resumes from the newest checkpoint, or begins with what `start` has learnt."""
  part = distributed.host_slice(mesh)
  data = training_pipeline(
    experiment.data,
    tokenizer,
    shapes=media_shapes(experiment, vision),
    coder=coder_of(speech),
    host=part.index,
    hosts=part.count,
  )
  task = Pretrain(experiment.model, experiment.elastic, experiment.objective, vision, speech)
  length = experiment.data.row_length
  before = before_switch(experiment, workdir, vision, speech)
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
    evaluate=held_out_loss(experiment, tokenizer, vision, speech),
    before=before,
    adapt=None if before is None else lambda state: switch_tokenizer(state, before, task),
    begin=None if start is None else lambda state: begin_at(start, state),
  )
  try:
    return loop.train(experiment.train, run)
  finally:
    data.close()


def get_tokenizer(
  experiment: Experiment, workdir: pathlib.Path, start: SavedModel | None = None
) -> Tokenizer:
  """The workdir's tokenizer: stored with its checkpoints, trained or copied there on the first run.

  One that an attempt with another text, data or vocabulary left before its first checkpoint is replaced.
  """
  path = workdir / "checkpoints" / "assets" / TOKENIZER
  fits = start is None and _tokenizer_fits(experiment, workdir, path)
  if jax.process_index() == 0 and not fits:
    path.parent.mkdir(parents=True, exist_ok=True)  # fails before minutes of training, not after
    (_make_tokenizer(experiment) if start is None else start.tokenizer).save(path)
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices("tokenizer")
  tokenizer = Tokenizer.load(path)
  if tokenizer.vocab_size > experiment.model.vocab_size:
    raise UserError(
      f"config.model.vocab_size ({experiment.model.vocab_size}) is below the tokenizer's"
      f" {tokenizer.vocab_size} ids"
    )
  return tokenizer


def _tokenizer_fits(experiment: Experiment, workdir: pathlib.Path, path: pathlib.Path) -> bool:
  """Whether the stored tokenizer is the one that this experiment would make."""
  if not path.exists():
    return False
  if checkpoint.steps(workdir / "checkpoints"):
    return True  # compared already
  try:
    return not _difference(experiment, read_config(workdir), ("text", "data", "model"))
  except UserError:  # stopped before it wrote its config
    return False


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
    *_describe_media(e),
    f"devices     {mesh.size} x {jax.devices()[0].device_kind}" + (f" as {axes}" if axes else ""),
  ]
  return "\n".join(lines)


def _describe_media(experiment: Experiment) -> list[str]:
  data, model = experiment.data, experiment.model
  labels = lambda sources: ", ".join(source.label for source in sources)
  lines = []
  if data.media.sources:
    media = (*data.media.sources, *data.media.spoken)
    lines.append(f"media       {labels(media)}; {code_name(model.vision)}")
  if data.speech.sources:
    code = f"{model.audio.levels} levels of {model.audio.codes} codes, heads {model.audio.heads}"
    lines.append(f"speech      {labels(data.speech.sources)}; {code}")
  return lines


def _final_report(workdir: pathlib.Path) -> None:
  """The family's table, a sample and the figures, by the first process."""
  if jax.process_index() != 0:
    return
  from ernie_jax.evaluate.report import report

  report(workdir)


# What a run may change when it goes on: where and how fast, but not what is computed.
_FREE = {
  "data": ("data_dir", "prefetch", "threads", "cache_mb"),
  "vision": ("tokenizer", "encoder"),
  "audio": ("codec",),
  "model": ("remat", "scan", "attention", "grouped_matmul"),
}


def _check_same_experiment(experiment: Experiment, workdir: pathlib.Path) -> None:
  """A checkpoint must be of this model, data and seed; how long and how fast may change."""
  sections = ("model", "text", "data", "vision", "audio", "seed")
  old, now = read_config(workdir), experiment.model.vision
  bits = stored_bits(workdir / "checkpoints")
  if now is not None and bits is not None and bits <= now.bits:  # a tokenizer may grow
    old = {**old, "model": {**old["model"], "vision": {**old["model"]["vision"], "bits": now.bits}}}
  old = completed(old, Experiment)
  given = old["vision"]["encoder"]  # its place may change, but not whether there is one
  if bool(given) != bool(experiment.vision.encoder):
    raise UserError(
      f"--workdir: {workdir} holds a checkpoint of another config: config.vision.encoder was {given!r}"
    )
  check_same(workdir, old, config_lib.to_dict(experiment), sections, _FREE)


def _difference(experiment: Experiment, old: dict[str, Any], sections: Sequence[str]) -> str:
  """`KEY was OLD, is NEW` of the first key of `sections` that differs; empty if none does."""
  new = config_lib.to_dict(experiment)
  old = completed(old, Experiment)
  for section in sections:
    free = _FREE.get(section, ())
    found = first_difference(old.get(section), new[section], f"config.{section}", free)
    if found:
      return found
  return ""


def _check_data(experiment: Experiment) -> None:
  """Prepares the text where needed and opens it, so that an error comes before any work is done."""
  for source in experiment.data.sources:
    build = prepare(source, experiment.data.data_dir)
    for side in ("train", "validation"):
      Pieces(build, side)
  for split in ("train", "validation"):
    open_media(experiment.data.media, split, data_dir=experiment.data.data_dir)
    open_all(experiment.data.speech.sources, split, data_dir=experiment.data.data_dir)
  if experiment.text.tokenizer:
    Tokenizer.load(experiment.text.tokenizer)


@contextlib.contextmanager
def writing(workdir: pathlib.Path):
  """A full or read-only disk is told in one line; what is complete there stays as it is."""
  try:
    yield
  except OSError as e:
    if e.errno not in _UNWRITABLE:
      raise
    raise UserError(
      f"--workdir: cannot write {e.filename or workdir}: {e.strerror}; checkpoints already complete"
      " are unharmed"
    ) from e


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
