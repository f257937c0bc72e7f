"""Stages one after another, each in a folder of its own; what is finished is not done again.

    config.stage = "pipeline"
    config.stages = {"codec": <an audio codec's config>, "joint": <the unified model's config>}
    config.stages.joint.audio.codec = "@codec"

A value "@NAME" stands for the folder of another stage (and "@NAME/FILE" for a file in it), so references say what
is made from what, and in which order. WORKDIR/pipeline.json says of each stage what it was made of: its config and
the identities of the stages it refers to. A stage is *stale* where that is no longer so. It and all that is made
from it run again from the start, and the old folder is kept aside, since it may have cost hours. So what has no part
in what is trained may change: how a stage is scored, and a key that was not there when the stage ran and has its
default. A stage that nothing is made from goes on where only its steps are more. When all stages are finished,
WORKDIR/report.html tells of the whole run.
"""

import contextlib
import dataclasses
import graphlib
import pathlib
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.experimental import multihost_utils

from ernie_jax import config as config_lib
from ernie_jax.errors import UserError
from ernie_jax.sharding.mesh import MeshConfig
from ernie_jax.train import stages
from ernie_jax.train.hardware import machine
from ernie_jax.train.model_io import read_config, write_config
from ernie_jax.train.pipeline_record import (
  FREE,
  Record,
  change,
  difference,
  goes_further,
  identity,
  made_from,
  put,
  read_record,
)

STAGE = "pipeline"
ASIDE = "stale"  # where the folders of stale stages go
REPORT = "report.html"  # written last, so where it is the run is complete
_REPORTS = (REPORT, "report.md")
_TOLD_EVERY = 60.0  # seconds between two notes of how long a stage has run


@dataclasses.dataclass(frozen=True)
class PipelineExperiment:
  """Everything that a pipeline is.

  Attributes:
    name: for people.
    stages: the config of each stage by name, with its references, in an order that can be run.
  """

  name: str
  stages: Mapping[str, dict[str, Any]]

  @property
  def mesh(self) -> MeshConfig:
    """What a process settles once: into how many devices a CPU is split, the most that a stage asks for; to compile
    quickly if all stages do.
    """
    meshes = [_build(name, values).mesh for name, values in self.stages.items()]
    most = max(meshes, key=lambda mesh: mesh.simulated_devices)
    return dataclasses.replace(
      most,
      cpu_split=max(mesh.cpu_split for mesh in meshes),
      quick_compile=all(mesh.quick_compile for mesh in meshes),
    )

  def made_from(self, name: str) -> tuple[str, ...]:
    """The stages that a stage refers to."""
    return made_from(self.stages[name])


def build_experiment(values: Any) -> PipelineExperiment:
  """Checks a whole config, that of every stage included.

  Raises:
    UserError: naming the key; a reference to no stage, or stages that are made from each other.
  """
  values = config_lib.to_dict(values)
  if unknown := sorted(set(values) - {"name", "stage", "stages"}):
    raise UserError(f"unknown config key config.{unknown[0]}; known keys: name, stage, stages")
  found = values.get("stages")
  if not isinstance(found, dict) or not found:
    raise UserError("config.stages must be a group of configs by name")
  graph = {}
  for name, one in sorted(found.items()):
    graph[name] = sorted(made_from(one))
    if unknown := [other for other in graph[name] if other not in found]:
      raise UserError(f"config.stages.{name} refers to @{unknown[0]}, and there is no such stage")
  try:
    order = list(graphlib.TopologicalSorter(graph).static_order())
  except graphlib.CycleError as e:
    raise UserError(f"config.stages are made from each other: {' <- '.join(e.args[1])}") from e
  for name in order:
    _build(name, found[name])
  return PipelineExperiment(
    name=values.get("name", STAGE), stages={name: found[name] for name in order}
  )


def run_experiment(
  experiment: PipelineExperiment,
  workdir: pathlib.Path,
  *,
  only: Sequence[str] = (),
  force: Sequence[str] = (),
) -> None:
  """Runs every stage that is not finished; where then all are, the report follows.

  Args:
    experiment: see `PipelineExperiment`.
    workdir: the folder of the stages' folders.
    only: stages to run, and no others; what they are made from must be finished.
    force: stages to run again although they are finished.

  Raises:
    UserError: no such stage, one of `only` is made from what is not finished, or whatever a stage raises.
    Stopped: after SIGTERM.
  """
  for flag, names in (("only", only), ("force", force)):
    if unknown := [name for name in names if name not in experiment.stages]:
      known = ", ".join(experiment.stages)
      raise UserError(f"--{flag}: there is no stage {unknown[0]}; there are {known}")
  if only and (left_out := [name for name in force if name not in only]):
    raise UserError(f"--force: {left_out[0]} is none of the stages of --only")
  chosen = tuple(only) or tuple(experiment.stages)
  ran = [
    _run_stage(experiment, workdir, name, forced=name in force)
    for name in experiment.stages
    if name in chosen
  ]
  record = read_record(workdir)
  finished = all(_is_finished(experiment, workdir, name, record) for name in experiment.stages)
  if finished and (any(ran) or not (workdir / REPORT).exists()):
    _final_report(experiment, workdir)


def _run_stage(
  experiment: PipelineExperiment, workdir: pathlib.Path, name: str, *, forced: bool
) -> bool:
  """Brings one stage to its end; False where it was finished."""
  record = read_record(workdir)
  for other in experiment.made_from(name):
    if not _is_finished(experiment, workdir, other, record):
      raise UserError(f"--only: {name} is made from {other}, which is not finished")
  old = record.get(name)
  further = bool(old) and goes_further(experiment.stages, name, record)
  changed = change(experiment.stages, name, record) if old and not further else ""
  if old and (forced or changed):
    why = "is run again as asked" if forced else f"is stale: {changed}"
    aside = _put_aside(workdir, name, old["run"])
    _tell(f"{name} {why}" + (f"; what was there is kept in {aside}" if aside else ""))
    entry = {"run": old["run"] + 1, "seconds": 0.0}
  elif old and old["finished"] and not (workdir / name).is_dir():
    _tell(f"{name} begins again: it was finished, but {workdir / name} is gone")
    entry = {"run": old["run"] + 1, "seconds": 0.0}
  elif old and old["finished"] and not further:
    scored = _scored_otherwise(experiment, workdir, name, old)
    _tell(f"{name} is finished, in {old['seconds']:.0f} s{scored}")
    return False
  else:
    _tell(f"{name} {'goes on' if old else 'begins'}")
    entry = {"run": old["run"], "seconds": old["seconds"]} if old else {"run": 1, "seconds": 0.0}
  entry |= {"config": experiment.stages[name], "finished": False, "machine": machine()}
  entry["identity"] = identity(record | {name: entry}, name)
  _write(workdir, name, entry)
  if jax.process_index() == 0:
    for name_of_report in _REPORTS:  # they tell of another run of this stage
      (workdir / name_of_report).unlink(missing_ok=True)
  _timed(experiment, workdir, name, entry)
  jax.clear_caches()  # a stage's programs are of no use to the next one
  return True


def _is_finished(
  experiment: PipelineExperiment,
  workdir: pathlib.Path,
  name: str,
  record: Record,
) -> bool:
  """Whether a stage, as it is now, came to its end, and what it left is there."""
  ended = record.get(name, {}).get("finished") and not change(experiment.stages, name, record)
  return bool(ended) and (workdir / name).is_dir()


def _final_report(experiment: PipelineExperiment, workdir: pathlib.Path) -> None:
  """The report of the whole run, by the first process.

  Where a stage's model is to show what it makes, it has samples and the study of its routing too.
  """
  if jax.process_index() != 0:
    return
  from ernie_jax.analysis.routing_study import study_routing
  from ernie_jax.report.page import write_report
  from ernie_jax.report.samples import SAMPLES

  stages = experiment.stages.items()
  shown = [name for name, values in stages if values.get("evaluation", {}).get("prompts")]
  for name in shown:
    if _build(name, experiment.stages[name]).model.moe_layers:
      print(f"studying the routing of {name}", flush=True)
      study_routing(workdir / name)
  print("all stages are finished; writing the report", flush=True)
  print(f"report: {write_report(workdir, count=SAMPLES if shown else 0)}", flush=True)


def _timed(
  experiment: PipelineExperiment, workdir: pathlib.Path, name: str, entry: dict[str, Any]
) -> None:
  """Runs a stage and adds to its entry how long it took, also where it did not come to its end."""
  values = _resolved(experiment.stages[name], lambda reference: str(workdir / reference))
  stage, began = stages.stage_of(values), time.monotonic()
  so_far = lambda: entry | {"seconds": entry["seconds"] + time.monotonic() - began}
  finished = False
  try:
    with _whole_keys(name), _noted(lambda: put(workdir, name, so_far())):
      stage.run(stage.build(values), workdir / name)
    finished = True
  finally:
    _write(workdir, name, so_far() | {"finished": finished})


@contextlib.contextmanager
def _noted(note: Callable[[], None]) -> Iterator[None]:
  """Calls `note` now and then while something runs, so that a kill does not lose what it says."""
  ended = threading.Event()

  def keep() -> None:
    while not ended.wait(_TOLD_EVERY):
      with contextlib.suppress(UserError, OSError):  # a full disk is for the stage to tell
        note()

  thread = threading.Thread(target=keep, name="pipeline record", daemon=True)
  thread.start()
  try:
    yield
  finally:
    ended.set()
    thread.join()


def _build(name: str, values: dict[str, Any]) -> Any:
  """A stage's experiment, its references as they are."""
  with _whole_keys(name):
    return stages.stage_of(values).build(values)


@contextlib.contextmanager
def _whole_keys(name: str) -> Iterator[None]:
  """Messages of a stage name its keys as they are in the pipeline's config."""
  try:
    yield
  except UserError as e:
    raise UserError(re.sub(r"\bconfig\.(?!json)", f"config.stages.{name}.", str(e))) from e


def _scored_otherwise(
  experiment: PipelineExperiment, workdir: pathlib.Path, name: str, old: Mapping[str, Any]
) -> str:
  """What to tell of a finished stage whose config asks for other scores than it has; empty where it does not.

  The folder of a model keeps how it is to be scored, so there it is told once.
  """
  now, folder = experiment.stages[name], workdir / name
  found = difference(name, old["config"], now, FREE)
  if not found or not {"model", "elastic"} <= set(now):
    return f"; {found}, of which its scores know nothing" if found else ""
  stored = read_config(folder)
  wanted = stored | {"evaluation": config_lib.to_dict(_build(name, now).evaluation)}
  if stored == wanted:
    return ""
  if jax.process_index() == 0:
    write_config(folder, wanted)
  again = f"python -m ernie_jax.evaluate --workdir={folder}"
  if now["model"].get("vision") or now["model"].get("audio"):
    again += f" --prompts={wanted['evaluation']['prompts']}"
  return f"; {found}: {again} scores every member anew"


def _put_aside(workdir: pathlib.Path, name: str, run: int) -> pathlib.Path | None:
  """Moves a stage's folder to where it is in no one's way; None where there is none."""
  target = workdir / ASIDE / f"{name}-{run}"
  there = (workdir / name).exists()
  _together("look")  # before any process moves it
  if not there:
    return None
  if jax.process_index() == 0:
    target.parent.mkdir(exist_ok=True)
    shutil.move(workdir / name, target)
  _together("aside")
  return target


def _write(workdir: pathlib.Path, name: str, entry: dict[str, Any]) -> None:
  """Puts a stage's entry into the record, which all processes then see."""
  put(workdir, name, entry)
  _together("record")


def _together(what: str) -> None:
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(what)


def _tell(line: str) -> None:
  if jax.process_index() == 0:
    print(f"stage {line}", flush=True)


def _resolved(values: Any, place) -> Any:
  """Values with every "@NAME" replaced by `place("NAME")`."""
  if isinstance(values, dict):
    return {key: _resolved(value, place) for key, value in values.items()}
  if isinstance(values, list):
    return [_resolved(value, place) for value in values]
  return place(values[1:]) if isinstance(values, str) and values.startswith("@") else values
