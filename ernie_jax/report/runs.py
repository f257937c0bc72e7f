"""What lies in the workdir of a run, as it is: configs, metrics and the JSON files of evaluations.

A run is a pipeline, with a folder for each of its stages, or one stage. Nothing is required but a config; what is
not there is empty here.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ernie_jax import config as config_lib
from ernie_jax.backbone.config import ModelConfig
from ernie_jax.backbone.parameters import Cost, model_cost
from ernie_jax.elastic.family import ElasticConfig, parse_member
from ernie_jax.elastic.slicing import member_config
from ernie_jax.errors import UserError
from ernie_jax.evaluate.figures import Series, read_metrics
from ernie_jax.train import checkpoint
from ernie_jax.train.metrics import FILE_NAME as METRICS
from ernie_jax.train.pipeline_record import RECORD, read_record

MODEL = "pretrain"


@dataclasses.dataclass(frozen=True)
class StageRun:
  """One stage.

  Attributes:
    name: in its pipeline; a run of one stage has the name of its experiment.
    workdir: its folder.
    config: as it was built.
    metrics: by key, from metrics.jsonl.
    results: what evaluations wrote, by the name of the file without its ending.
    seconds: that it took; None where no pipeline counted them.
    machine: what it ran on; empty where nothing says so.
  """

  name: str
  workdir: pathlib.Path
  config: Mapping[str, Any]
  metrics: Mapping[str, Series]
  results: Mapping[str, Mapping[str, Any]]
  seconds: float | None = None
  machine: str = ""

  @property
  def kind(self) -> str:
    """What is trained, as a config's key `stage` says."""
    return self.config.get("stage", MODEL)

  @property
  def is_model(self) -> bool:
    """Whether it trains the unified model."""
    return {"model", "elastic"} <= set(self.config)

  @property
  def step(self) -> int | None:
    """The newest complete checkpoint's."""
    return max(checkpoint.steps(self.workdir / "checkpoints"), default=None)

  @property
  def judged(self) -> dict[str, Mapping[str, Any]]:
    """The results that have scores by split, task and attribute."""
    return {
      name: found
      for name, found in self.results.items()
      if isinstance(found.get("scores"), dict) and isinstance(found.get("columns"), list)
    }

  def parameters(self) -> int | None:
    """All that the newest checkpoint holds of what is trained; None without one."""
    if self.step is None:
      return None
    stored = checkpoint.metadata(self.workdir / "checkpoints")
    return sum(math.prod(a.shape) for name, a in stored.items() if name.startswith("params/"))

  def cost(self, member: str | None = None) -> Cost | None:
    """What the model, or a member of it, costs; None where its config is not one that we know."""
    try:
      model = config_lib.build(ModelConfig, self.config["model"], path="config.model")
      elastic = config_lib.build(ElasticConfig, self.config["elastic"], path="config.elastic")
      if member is not None:
        model = member_config(parse_member(member, model), elastic=elastic, model=model)
    except (UserError, KeyError):
      return None
    return model_cost(model, self.config.get("data", {}).get("row_length", 1))


@dataclasses.dataclass(frozen=True)
class Run:
  """A whole run: its `name`, its `workdir`, and its stages in the order in which they ran."""

  name: str
  workdir: pathlib.Path
  stages: Sequence[StageRun]

  @property
  def models(self) -> list[StageRun]:
    """The stages that train the unified model, but for those that another one goes on from."""
    begun_at = [(s.name, pathlib.Path(s.config.get("start") or "").name) for s in self.stages]
    before = {start for name, start in begun_at if start != name}
    return [s for s in self.stages if s.is_model and s.name not in before]


def read_run(workdir: str | pathlib.Path) -> Run:
  """Reads all that a workdir says of its run.

  Raises:
    UserError: there is no run, or a file of it cannot be read.
  """
  workdir = pathlib.Path(workdir)
  record = read_record(workdir)
  if record:
    stages = [_stage(name, workdir / name, entry) for name, entry in record.items()]
    return Run(workdir.absolute().name, workdir, stages)
  config = _read_json(workdir / "config.json")
  if config is None:
    raise UserError(f"--workdir: no run in {workdir} (there is no {RECORD} and no config.json)")
  stage = _stage(str(config.get("name", workdir.absolute().name)), workdir, {})
  return Run(stage.name, workdir, [stage])


def _stage(name: str, folder: pathlib.Path, entry: Mapping[str, Any]) -> StageRun:
  found = {}
  for path in sorted(folder.glob("*.json")):
    if path.name not in (RECORD, "config.json") and (values := _read_json(path)) is not None:
      found[path.stem] = values
  return StageRun(
    name=name,
    workdir=folder,
    config=_read_json(folder / "config.json") or entry.get("config", {}),
    metrics=read_metrics(folder / METRICS),
    results=found,
    seconds=entry.get("seconds"),
    machine=entry.get("machine", ""),
  )


def _read_json(path: pathlib.Path) -> dict[str, Any] | None:
  """A file's object; None where there is none."""
  try:
    values = json.loads(path.read_text())
  except FileNotFoundError:
    return None
  except (OSError, ValueError) as e:
    raise UserError(f"cannot read {path}: {e}") from e
  return values if isinstance(values, dict) else None
