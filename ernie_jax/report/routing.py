"""The study of a model's routing, where someone made one: its picture, and the numbers of its JSON file."""

from collections.abc import Iterator, Mapping
from typing import Any

from ernie_jax.report import numbers
from ernie_jax.report.document import Section, Table, tidy
from ernie_jax.report.media import picture_of
from ernie_jax.report.runs import Run

_MOST = 24  # numbers of a list, and keys of a group, that are told one by one
_STEM = "routing"


def routing(run: Run) -> Section | None:
  """The section; None without a study."""
  parts = []
  for stage in run.stages:
    found = stage.results.get(_STEM)
    picture = picture_of(
      stage.workdir / f"{_STEM}.png", f"How the experts of {stage.name} are used"
    )
    if found is None and picture is None:
      continue
    rows = tuple((name, value) for name, value in _flat(found or {}))
    table = Table(("measure", "value"), rows, left=2) if rows else None
    part = tidy("numbers", table, folded=True)
    parts += [picture, part] if len(run.models) == 1 else [tidy(stage.name, picture, part)]
  return tidy("Routing", *parts)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
  """The numbers and words of nested groups, with the whole name of each; long lists are left out."""
  if len(values) > _MOST:
    return
  for key, value in values.items():
    name = f"{prefix}{str(key).replace('_', ' ')}"
    if isinstance(value, Mapping):
      yield from _flat(value, f"{name} / ")
    elif isinstance(value, list) and len(value) <= _MOST and all(map(_plain, value)):
      yield name, ", ".join(map(_told, value))
    elif _plain(value):
      yield name, _told(value)


def _plain(value: Any) -> bool:
  return isinstance(value, (int, float, str)) and not isinstance(value, bool)


def _told(value: float | str) -> str:
  if isinstance(value, str):
    return value
  return f"{value:,}" if isinstance(value, int) else numbers.number(value, ".4g")
