"""Values in a checkpoint's JSON files: each is of the kind that its key needs, or is told by that key."""

import sys
from collections.abc import Mapping
from typing import Any

from ernie_jax.errors import UserError

_CONFIG = "config.json"


def present(config: Mapping[str, Any], key: str, default: Any = None) -> Any:
  """The value of a key; `default` where it is absent or null."""
  return default if config.get(key) is None else config[key]


def number(value: Any, key: str, *, file: str = _CONFIG) -> float:
  """The value of a key that must be a finite number. Raises: UserError naming it."""
  known = isinstance(value, (int, float)) and not isinstance(value, bool)
  if not known or not abs(value) <= sys.float_info.max:
    raise UserError(f"{file}: {key} must be a number, got {value!r}")
  return float(value)


def positive(value: Any, key: str) -> int:
  """The value of a key that must be a whole number above 0. Raises: UserError naming it."""
  if not isinstance(value, int) or isinstance(value, bool) or value < 1:
    raise UserError(f"{_CONFIG}: {key} must be a positive whole number, got {value!r}")
  return value


def table(config: Mapping[str, Any], key: str, *, file: str = _CONFIG) -> dict[str, Any]:
  """The object under a key, empty where there is none. Raises: UserError naming what is none."""
  value = present(config, key, {})
  if not isinstance(value, Mapping):
    raise UserError(f"{file}: {key} must be an object with keys, got {value!r}")
  return dict(value)
