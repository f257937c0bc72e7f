"""How a run went: its stages, how long they took, their curves, and what a config says of the data."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ernie_jax.report import numbers
from ernie_jax.report.curves import curve_figure, last_values
from ernie_jax.report.document import Section, Table, Text, tidy
from ernie_jax.report.runs import Run, StageRun

_KINDS = {
  "pretrain": "the unified model",
  "visual_tokenizer": "visual tokenizer",
  "visual_encoder": "visual encoder",
  "audio_codec": "audio codec",
  "text_tokenizer": "text tokenizer",
}
_PARAMETERS = (
  "Parameters of the model: without frozen tokenizers and the path that understands pictures. Active: what one"
  " token uses."
)


def trained(run: Run) -> Section | None:
  """What was trained, on what."""
  if not run.stages:
    return None
  rows = []
  for stage in run.stages:
    cost = stage.cost() if stage.is_model else None
    total, active = (cost.params_total, cost.params_active) if cost else (stage.parameters(), None)
    words = (stage.name, _what(stage), "; ".join(_data(stage.config)))
    steps = numbers.count(stage.step or _planned(stage))
    rows.append((*words, numbers.large(total), numbers.large(active), steps))
  columns = ("stage", "what", "data", "parameters", "active", "steps")
  table = Table(columns, tuple(rows), left=3, note=_PARAMETERS if run.models else "")
  machines = list(dict.fromkeys(stage.machine for stage in run.stages if stage.machine))
  where = Text(f"Machine: {'; '.join(machines)}.") if machines else None
  return tidy("What was trained", table, where)


def times(run: Run) -> Section | None:
  """How long each stage took."""
  rows, estimated = [], False
  for stage in run.stages:
    seconds, about = stage.seconds, ""
    tokens = _tokens(stage)
    speed = _median(stage, "tokens_per_second")
    if seconds is None and tokens and speed:
      seconds, about, estimated = tokens / speed, "about ", True
    if seconds is None:
      continue
    waits = _median(stage, "data_wait")
    cells = (numbers.large(tokens), numbers.count(speed) if stage.is_model else "")
    cells += ("" if waits is None else f"{100 * waits:.1f} %",)
    rows.append((stage.name, about + numbers.duration(seconds), *cells))
  if not rows:
    return None
  counted = [stage.seconds for stage in run.stages if stage.seconds is not None]
  if len(counted) > 1:
    rows.append(("all", numbers.duration(sum(counted)), "", "", ""))
  note = "With compilation and the stage's own evaluation."
  if estimated:
    note = "Tokens over the median of tokens a second; compilation and evaluations are not in it."
  columns = ("stage", "time", "tokens", "tokens a second, median", "waiting for data, at most")
  return tidy("Time", Table(columns, tuple(rows), note=note))


def curves(run: Run) -> Section | None:
  """Losses, learning rate and speed of every stage that logged them."""
  parts = []
  for stage in run.stages:
    rows = last_values(stage.metrics)
    head = ("loss", "first", "last logged", "rescaled, last logged", "held out, last")
    table = Table(head, rows).compact() if rows else None
    title = f"{stage.name}: {_KINDS.get(stage.kind, stage.kind)}"
    beside = bool(run.models) and not stage.is_model
    parts.append(tidy(title, curve_figure(stage), table, folded=beside))
  return tidy("Curves", *parts)


def _what(stage: StageRun) -> str:
  """The kind, and of a model its shape."""
  kind = _KINDS.get(stage.kind, stage.kind)
  model = stage.config.get("model", {})
  if not stage.is_model or not {"depth", "experts", "top_k"} <= set(model):
    return kind
  shape = f"{model['depth']} layers, {model['experts']} experts, top-{model['top_k']}"
  members = len(stage.config["elastic"].get("members", ()))
  family = f", a family of {members + 1}" if members else ""
  return f"{kind}: {shape}{family}"


def _planned(stage: StageRun) -> int | None:
  train = stage.config.get("train")
  return train.get("steps") if isinstance(train, Mapping) else None


def _data(config: Mapping[str, Any]) -> Iterator[str]:
  """What a config's data are, each source in some words."""
  data = config.get("data", {})
  for source in data.get("sources", ()):
    yield source.get("path") or "Python's standard library"
  for part in (data, data.get("media", {}), data.get("speech", {})):
    for world in part.get("worlds", ()):
      what = "utterances" if "speech" in world else _scenes(world.get("scene", {}))
      yield f"{numbers.count(world.get('train'))} {what} of the embedded world"
    for source in (*part.get("folders", ()), *part.get("tfds", ())):
      yield str(source.get("path") or source.get("name") or "a data set")


def _scenes(scene: Mapping[str, Any]) -> str:
  """What kind of scenes a world has."""
  frames, fewest = scene.get("frames", 1), scene.get("min_objects", 1)
  what = "pictures" if frames == 1 else f"videos of {frames} frames"
  extras = [f"at least {fewest} things"] if fewest > 1 else []
  extras += ["colours without names"] if scene.get("nameless") else []
  return f"{what} ({', '.join(extras)})" if extras else what


def _tokens(stage: StageRun) -> float | None:
  """Positions that the model was trained on: steps by micro-batches by the tokens of one."""
  data, logged = stage.config.get("data", {}), stage.metrics.get("microbatches")
  if logged is None or not stage.is_model or not {"rows_per_batch", "row_length"} <= set(data):
    return None
  steps, microbatches = logged
  since = np.diff(steps, prepend=0)
  return float((since * microbatches).sum() * data["rows_per_batch"] * data["row_length"])


def _median(stage: StageRun, key: str) -> float | None:
  """Of all logged values but the first, which has compilation in it."""
  values = stage.metrics.get(key, (None, np.zeros(0)))[1][1:]
  values = values[np.isfinite(values)]
  return float(np.median(values)) if len(values) else None
