"""WORKDIR/pipeline.json: what each stage of a pipeline was made of, and whether a stage is so still.

What has no part in what is trained may change, and so may a key that was not there when the stage ran and has its
default (`pipeline_run.py` says what follows).
"""

import contextlib
import hashlib
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from ernie_jax import config as config_lib
from ernie_jax.errors import UserError
from ernie_jax.train import stages as stages_lib
from ernie_jax.train.stage_io import first_difference, without
from ernie_jax.whole_file import written_whole

RECORD = "pipeline.json"
# What a stage may change without being another: where, how fast, how often something is told or kept. Identities in
# records are made without these keys, so none can be added or removed.
FREE = ("data_dir", "cache_mb", "prefetch", "threads", "oracle_dir", "mesh", "remat", "scan")
FREE += ("log_every", "evaluate_every", "checkpoint_every", "keep_latest", "keep_every", "profile")
SCORING = ("evaluation", "examples", "metric_examples")  # nor how it is scored

Record = Mapping[str, Mapping[str, Any]]  # entries of stages by name
Stages = Mapping[str, dict[str, Any]]  # configs of stages by name


def identity(record: Record, name: str) -> str:
  """What a stage was made of, by the record: its config, and which run of which stages it refers to."""
  config = record.get(name, {}).get("config", {})
  others = [
    f"{identity(record, other)} {record.get(other, {}).get('run', 0)}"
    for other in made_from(config)
  ]
  own = json.dumps(without(config, FREE), sort_keys=True)
  return hashlib.sha256("/".join([own, *others]).encode()).hexdigest()[:16]


def read_record(workdir: pathlib.Path) -> dict[str, dict[str, Any]]:
  """What WORKDIR/pipeline.json says of each stage.

  That is its `identity` and `config`, the number of its `run` (from the start), whether it is `finished`, the
  `machine` that it ran on, and the `seconds` that it took.

  Raises:
    UserError: it cannot be read.
  """
  path = workdir / RECORD
  try:
    return json.loads(path.read_text())
  except FileNotFoundError:
    return {}
  except (OSError, ValueError) as e:
    raise UserError(f"cannot read {path}: {e}") from e


def put(workdir: pathlib.Path, name: str, entry: dict[str, Any]) -> None:
  """Puts a stage's entry into the record, by the first process."""
  if jax.process_index() == 0:
    record = read_record(workdir) | {name: entry}
    with written_whole(workdir / RECORD) as part:
      part.write_text(json.dumps(record, indent=2) + "\n")


def made_from(values: Any) -> tuple[str, ...]:
  """The names of the stages that a config refers to, each once."""
  return tuple(dict.fromkeys(_references(values)))


def change(stages: Stages, name: str, record: Record) -> str:
  """Why a stage is stale; empty where it is not."""
  old, now = record[name]["config"], stages[name]
  return difference(name, old, now) or _made_anew(stages, name, record)


def _made_anew(stages: Stages, name: str, record: Record) -> str:
  """Says that what a stage is made from is no longer what it was made from; empty where it is."""
  others = made_from(stages[name])
  changed = any(other not in record or change(stages, other, record) for other in others)
  if changed or (others and record[name]["identity"] != identity(record, name)):
    return f"it is made from {' and '.join(others)}, which changed"
  return ""


def difference(
  name: str, old: dict[str, Any], now: dict[str, Any], free: Sequence[str] = (*FREE, *SCORING)
) -> str:
  """`KEY was OLD, is NEW` of the first key that has a part in what a stage trains; empty if none differs.

  A key that one of the configs does not have is at its default.
  """
  with contextlib.suppress(UserError):  # the old one is of a version that had other keys
    old, now = _counted(old), _counted(now)
  return first_difference(old, now, f"config.stages.{name}", free)


def _counted(values: dict[str, Any]) -> dict[str, Any]:
  """What of a stage's config has a part in what is trained, every default included."""
  stage = stages_lib.stage_of(values)
  return stage.counted(config_lib.to_dict(stage.build(values)))


def goes_further(stages: Stages, name: str, record: Record) -> bool:
  """Whether a stage that nothing is made from differs from its record by more steps, and by nothing else."""
  if any(name in made_from(one) for one in stages.values()):
    return False
  old, now = record[name]["config"], stages[name]
  before, after = (values.get("train", {}).get("steps", 0) for values in (old, now))
  if not 0 < before < after:
    return False
  longer = old | {"train": old["train"] | {"steps": after}}
  return not (difference(name, longer, now) or _made_anew(stages, name, record))


def _references(values: Any) -> Iterator[str]:
  """The names of the stages that values refer to."""
  if isinstance(values, dict):
    values = list(values.values())
  if isinstance(values, list):
    for value in values:
      yield from _references(value)
  elif isinstance(values, str) and values.startswith("@"):
    yield values[1:].partition("/")[0]
