"""Frozen dataclasses built once from a ConfigDict, with every key and type checked.

Why not read the ConfigDict everywhere: a dataclass says in one place which keys exist, what they
mean and which values make sense, and it is hashable, so it can be a static argument of a jitted
function. Gotcha: a dataclass checks its own values in `__post_init__` by raising `ValueError`;
`build` turns that into a `UserError` that names the full key.
"""

import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import ml_collections

from ernie_jax.errors import UserError

T = TypeVar("T")


def build(cls: type[T], values: Mapping[str, Any], *, path: str) -> T:
  """Builds the frozen dataclass `cls` from `values`, which sits at the config key `path`.

  Nested dataclass fields are built from nested mappings; lists become tuples; ints are accepted for
  floats.

  Raises:
    UserError: an unknown key (with the nearest known one), a missing key, a wrong type, or a value
      the dataclass refuses.
  """
  fields = {f.name: f for f in dataclasses.fields(cls)}
  hints = _hints(cls)
  unknown = sorted(set(values) - set(fields))
  if unknown:
    near = difflib.get_close_matches(unknown[0], fields, n=1)
    hint = f"did you mean {path}.{near[0]}?" if near else f"known keys: {', '.join(fields)}"
    raise UserError(f"unknown config key {path}.{unknown[0]}; {hint}")
  arguments = {
    name: _convert(hints[name], value, path=f"{path}.{name}") for name, value in values.items()
  }
  missing = [n for n, f in fields.items() if n not in arguments and not _has_default(f)]
  if missing:
    raise UserError(f"missing config key {path}.{missing[0]}")
  try:
    return cls(**arguments)
  except ValueError as e:
    raise UserError(f"config {path}: {e}") from e


def to_dict(value: Any) -> Any:
  """The plain dict (JSON-ready) that `build` would turn back into `value`."""
  if dataclasses.is_dataclass(value):
    return {f.name: to_dict(getattr(value, f.name)) for f in dataclasses.fields(value)}
  if isinstance(value, ml_collections.ConfigDict):
    return to_dict(value.to_dict())
  if isinstance(value, Mapping):
    return {k: to_dict(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [to_dict(v) for v in value]
  return value


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
  return typing.get_type_hints(cls)  # slow, and scenes are built by the thousand


def _has_default(field: dataclasses.Field) -> bool:
  missing = dataclasses.MISSING
  return field.default is not missing or field.default_factory is not missing


def _convert(hint: Any, value: Any, *, path: str) -> Any:
  """Checks `value` against the type `hint` and converts containers."""
  origin, arguments = typing.get_origin(hint), typing.get_args(hint)
  if hint is Any:
    return value
  if dataclasses.is_dataclass(hint):
    if isinstance(value, hint):
      return value
    if not isinstance(value, (Mapping, ml_collections.ConfigDict)):
      raise UserError(f"config key {path} must be a group of keys, got {value!r}")
    return build(hint, value, path=path)
  if origin is typing.Literal:
    if value not in arguments:
      choices = ", ".join(map(repr, arguments))
      raise UserError(f"config key {path} must be one of {choices}, got {value!r}")
    return value
  if origin in (types.UnionType, typing.Union):
    if value is None and type(None) in arguments:
      return None
    inner = next(a for a in arguments if a is not type(None))
    return _convert(inner, value, path=path)
  if origin is tuple:
    if not isinstance(value, (list, tuple)):
      raise UserError(f"config key {path} must be a list, got {value!r}")
    return tuple(_convert(arguments[0], v, path=f"{path}[{i}]") for i, v in enumerate(value))
  if origin is dict or origin is Mapping:
    return {k: _convert(arguments[1], v, path=f"{path}.{k}") for k, v in value.items()}
  if hint is float and isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
    raise UserError(f"config key {path} must be {hint.__name__}, got {value!r}")
  return value
