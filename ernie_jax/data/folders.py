"""Folders of the user's own files with what is said about them in JSON lines: what every kind of file shares.

Each kind has a frozen `Line` of its metadata with `where` (for messages), `name` (the file that decides order
and split) and `split`; see `media_files` and `speech_files`.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ernie_jax.errors import UserError
from ernie_jax.text import files

METADATA = "metadata.jsonl"
SPLITS = ("train", "validation")


class Line(Protocol):
  """One line of the metadata, checked but with its files unread."""

  where: str
  split: str

  @property
  def name(self) -> str:
    """The file that decides the order and the split."""


AnyLine = TypeVar("AnyLine", bound=Line)


def read_lines(
  path: str,
  *,
  what: str,
  endings: tuple[str, ...],
  parse: Callable[[str, str], AnyLine],
  bare: Callable[[Path, Path], AnyLine],
) -> list[AnyLine]:
  """What the folder's metadata say, or one line for each file with one of the endings where it has none.

  Args:
    path: of the folder.
    what: the folder holds, for messages.
    endings: of file names, in lower case.
    parse: makes a line of the metadata's text and where it stands.
    bare: makes a line of the folder and a file in it.

  Raises:
    UserError: there is no such folder, nothing in it, or a line that is not as it should be.
  """
  folder = Path(path).expanduser()
  if not folder.is_dir():
    raise UserError(f"folder {path} ({what}): no such folder")
  metadata = folder / METADATA
  if metadata.exists():
    numbered = enumerate(text_of(metadata).split("\n"), 1)
    lines = [parse(line, f"{metadata} line {i}") for i, line in numbered if line.strip()]
  else:
    found = (p for p in sorted(folder.rglob("*")) if p.suffix.lower() in endings)
    lines = [bare(folder, p) for p in found if p.is_file()]
  if not lines:
    raise UserError(f"folder {path}: no {what}")
  return lines


def split_lines(lines: list[AnyLine], validation_percent: float) -> dict[str, list[AnyLine]]:
  """The lines of each side of the split, in the order of the hash of their names."""
  free = {line.name for line in lines if not line.split}
  halves = files.split([files.TextFile(path=n, name=n) for n in free], validation_percent)
  side = {file.name: split for split in SPLITS for file in getattr(halves, split)}
  ordered = sorted(lines, key=lambda line: (files.TextFile("", line.name).hash, line.name))
  return {
    split: [line for line in ordered if (line.split or side[line.name]) == split]
    for split in SPLITS
  }


def check_sides(
  path: str,
  lines: list[AnyLine],
  validation_percent: float,
  files_of: Callable[[AnyLine], Iterable[str]],
) -> None:
  """No side of the split may be empty, and none may have a file of the other.

  Raises:
    UserError: one is, or a file is on both.
  """
  sides = split_lines(lines, validation_percent)
  for split, chosen in sides.items():
    if not chosen:
      raise UserError(f"folder {path}: no file for the {split} side of the split")
  train, validation = (
    {os.path.normpath(Path(path, name)): line for line in sides[split] for name in files_of(line)}
    for split in SPLITS
  )
  if both := sorted(set(train) & set(validation)):
    raise UserError(
      f"{validation[both[0]].where}: {both[0]} is on both sides of the split (train:"
      f" {train[both[0]].where}); give its lines the same split"
    )


def identities(
  path: str, lines: Iterable[AnyLine], files_of: Callable[[AnyLine], Iterable[str]]
) -> Iterator[Any]:
  """What a change of means another build: what is said, and every file's size and time of change.

  Raises:
    UserError: a file that a line names is not there.
  """
  folder = Path(path).expanduser()
  for line in lines:
    yield dataclasses.replace(line, where="")
    for name in files_of(line):
      try:
        status = os.stat(folder / name)
      except OSError as e:
        raise UserError(f"{line.where}: {folder / name}: {e.strerror}") from e
      yield status.st_size, status.st_mtime_ns


def text_of(path: Path) -> str:
  """A file's text.

  Raises:
    UserError: it cannot be read as UTF-8.
  """
  try:
    return path.read_text(encoding="utf-8")
  except (OSError, UnicodeDecodeError) as e:
    raise UserError(f"{path}: cannot be read as UTF-8 text") from e


def parse_object(text: str, where: str, *, known: tuple[str, ...]) -> dict[str, Any]:
  """The object of one line.

  Raises:
    UserError: it is not JSON, or not an object with known keys and a known split.
  """
  try:
    values = json.loads(text)
  except ValueError as e:
    raise UserError(f"{where}: not JSON ({e})") from e
  values = as_object(values, where, known=known)
  if values.get("split", "") not in ("", *SPLITS):
    raise UserError(f"{where}: split must be one of {', '.join(SPLITS)}, got {values['split']!r}")
  return values


def as_object(value: Any, where: str, *, known: tuple[str, ...]) -> dict[str, Any]:
  """`value`, if it is an object with known keys.

  Raises:
    UserError: it is not.
  """
  if not isinstance(value, dict):
    raise UserError(f"{where}: must be an object with keys, got {value!r}")
  if unknown := sorted(set(value) - set(known)):
    raise UserError(f"{where}: unknown key {unknown[0]}; known are {', '.join(known)}")
  return value


def as_text(value: Any, where: str) -> str:
  """`value`, if it is text.

  Raises:
    UserError: it is not.
  """
  if not isinstance(value, str):
    raise UserError(f"{where} must be text, got {value!r}")
  return value
