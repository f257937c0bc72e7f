"""What the workdir of any stage says of itself: its config, its checkpoints, and whether a run may go on in it."""

import dataclasses
import json
import pathlib
from collections.abc import Collection, Sequence
from typing import Any

from ernie_jax import config as config_lib
from ernie_jax.errors import UserError
from ernie_jax.train import checkpoint


def read_stage_config(workdir: str | pathlib.Path, *, key: str, what: str) -> dict[str, Any]:
  """The experiment's config of a stage's workdir.

  Args:
    workdir: of the stage.
    key: the section that only this stage's config has.
    what: the stage makes, for messages.

  Raises:
    UserError: there is none, or it is another stage's.
  """
  path = pathlib.Path(workdir) / "config.json"
  try:
    values = json.loads(path.read_text())
  except FileNotFoundError as e:
    raise UserError(f"no {what} in {workdir} (there is no {path.name})") from e
  except (OSError, ValueError) as e:
    raise UserError(f"cannot read {path}: {e}") from e
  if not isinstance(values, dict) or key not in values:
    raise UserError(f"{workdir} holds no {what} (its config has no key {key})")
  return values


def chosen_step(workdir: str | pathlib.Path, step: int | None, *, what: str) -> int:
  """`step`, or the newest complete checkpoint's.

  Raises:
    UserError: there is none, or not that one.
  """
  known = checkpoint.steps(pathlib.Path(workdir) / "checkpoints")
  if not known:
    raise UserError(f"{workdir} has no complete checkpoint yet ({what})")
  if step is not None and step not in known:
    raise UserError(f"no checkpoint of step {step} in {workdir}; there are {known}")
  return known[-1] if step is None else step


def completed(old: dict[str, Any], kind: type) -> dict[str, Any]:
  """A config that was read, with the defaults of the keys that it was written without.

  Args:
    old: the config; keys of other stages in it are left out.
    kind: the dataclass of the stage's experiment.

  Raises:
    UserError: it is none of this version's: a key of one of its groups is gone.
  """
  known = {field.name for field in dataclasses.fields(kind)}
  values = {key: value for key, value in old.items() if key in known}
  return config_lib.to_dict(config_lib.build(kind, values, path="config"))


def without(values: Any, keys: Collection[str]) -> Any:
  """Plain values without these keys of their dicts, however deep."""
  if isinstance(values, dict):
    return {key: without(value, keys) for key, value in values.items() if key not in keys}
  return [without(value, keys) for value in values] if isinstance(values, list) else values


def first_difference(old: Any, new: Any, path: str, free: Sequence[str] = ()) -> str:
  """`KEY was OLD, is NEW` of the first value that differs, `free` keys apart; empty if none does.

  Of lists of structs that differ in length the lengths are told: their values would fill the screen.
  """
  if isinstance(old, dict) and isinstance(new, dict):
    pairs = [(f"{path}.{key}", old.get(key), new[key]) for key in new if key not in free]
  elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
    pairs = [(f"{path}[{i}]", one, other) for i, (one, other) in enumerate(zip(old, new))]
  else:
    pairs = []
  for where, one, other in pairs:
    if found := first_difference(one, other, where, free):
      return found
  lists = isinstance(old, list) and isinstance(new, list) and len(old) != len(new)
  if lists and any(isinstance(value, dict) for value in (*old, *new)):
    return f"{path} had {len(old)} entries, has {len(new)}"
  # What only the old of two dicts has is of no effect.
  same = isinstance(old, dict) and isinstance(new, dict)
  return "" if same or old == new else f"{path} was {old!r}, is {new!r}"


def check_same(
  workdir: str | pathlib.Path,
  old: dict[str, Any],
  new: dict[str, Any],
  sections: Sequence[str],
  free: dict[str, Sequence[str]],
) -> None:
  """A checkpoint must be of this config in `sections`, but for the keys of each that are `free`.

  Raises:
    UserError: naming the first key that differs.
  """
  for section in sections:
    path = f"config.{section}"
    found = first_difference(old.get(section), new[section], path, free.get(section, ()))
    if found:
      raise UserError(
        f"--workdir: {workdir} holds a checkpoint of another config: {found}; use another workdir or"
        " the old value"
      )


def check_same_tokenizer(
  workdir: str | pathlib.Path, old: dict[str, Any], experiment: Any, *, model: str
) -> None:
  """A checkpoint must be of this tokenizer or codec (the section `model`), objective, data and seed.

  How long it trains may change, and where that which it started from lies, but not whether there was one.

  Raises:
    UserError: naming the first key that differs.
  """
  old = completed(old, type(experiment))
  sections = (model, "data", "loss", "discriminator", "teacher", "seed")
  if bool(old["start"]) != bool(experiment.start):
    sections += ("start",)
  free = {"data": ("data_dir", "cache_mb")}
  check_same(workdir, old, config_lib.to_dict(experiment), sections, free)
