"""The user's own pictures and videos: a folder, and what is said about them in JSON lines.

`metadata.jsonl` in the folder has one object a line:

    {"file_name": "cats/1.jpg", "captions": "a cat on a chair"}
    {"file_name": "2.mp4", "captions": ["a dog runs", "a running dog"], "split": "validation",
     "questions": [{"question": "What runs?", "answer": "a dog", "kind": "what"}]}
    {"document": ["First the egg", {"file_name": "egg.png"}, "then the hen.", {"file_name": "hen.png"}]}

Every key may be left out, but for `file_name` where there is no document with a picture. Without that file
every picture and video in the folder is taken, with nothing said. A line goes to the side of the split it
names, else to that of the hash of its file's name. Everything is decoded once, to one size, and kept as records.
"""

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ernie_jax.data.builds import Build, build_key, prepare_build
from ernie_jax.data.media import PICTURES, VIDEOS, read_media
from ernie_jax.data.media_example import Document, MediaExample, Question
from ernie_jax.data.media_records import MediaBuilder
from ernie_jax.errors import UserError
from ernie_jax.text import files

METADATA = "metadata.jsonl"
SPLITS = ("train", "validation")
_FORMAT = 1  # part of the build's name: raise it when the records of equal settings change


@dataclasses.dataclass(frozen=True)
class MediaFolder:
  """A folder of pictures and videos; see the module docstring.

  Attributes:
    path: the folder.
    side: the middle square is resized to side x side pixels.
    frames: of a video (1 + 4n), its first ones; 1: only the first, as a picture.
    every: keep each `every`-th frame of a video.
    validation_percent: share of the files held out, where a line names no split.
    weight: share of the rows of a mixture, relative to the other sources.
  """

  path: str
  side: int = 32
  frames: int = 1
  every: int = 1
  validation_percent: float = 5.0
  weight: float = 1.0

  def __post_init__(self):
    for name in ("side", "frames", "every"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
    if self.frames % 4 != 1:
      raise ValueError(f"frames must be 1 + 4n, got {self.frames}")
    if not self.weight > 0:
      raise ValueError(f"weight must be positive, got {self.weight}")
    if not 0 < self.validation_percent < 100:
      raise ValueError(f"validation_percent must be in (0, 100), got {self.validation_percent}")

  @property
  def label(self) -> str:
    """What to call the source in messages."""
    return self.path


@dataclasses.dataclass(frozen=True)
class Line:
  """One line of the metadata, checked but with its files unread.

  Attributes:
    where: file and line number, for messages.
    file_name: relative to the folder; empty where the first picture of the document stands in.
    captions: see `MediaExample`.
    questions: see `MediaExample`.
    document: texts and file names, alternating, a text first and last; empty where there is none.
    split: of `SPLITS`; empty for that of the hash.
  """

  where: str
  file_name: str = ""
  captions: tuple[str, ...] = ()
  questions: tuple[Question, ...] = ()
  document: tuple[str, ...] = ()
  split: str = ""

  @property
  def name(self) -> str:
    """The file that decides the order and the split."""
    return self.file_name or self.document[1]


class MediaFiles(MediaBuilder):
  """Pictures and videos of a folder; `prepare` is the way to use it."""

  def splits(self) -> tuple[str, ...]:
    """See `SPLITS`."""
    return SPLITS

  def examples(self, split: str) -> Iterator[MediaExample]:
    """The lines of one side of the split, read."""
    source = self.builder_config.source
    for line in split_lines(read_lines(source), source.validation_percent)[split]:
      yield read_example(source, line)


def prepare(source: MediaFolder, data_dir: str | os.PathLike) -> Build:
  """Builds the records of `source` under `data_dir`, unless that very build is there already.

  Raises:
    UserError: the folder, its metadata or a file that they name cannot be used, or a side of the split is
      empty.
  """
  lines = read_lines(source)

  def check():
    for split, chosen in split_lines(lines, source.validation_percent).items():
      if not chosen:
        raise UserError(f"media folder {source.path}: no file for the {split} side of the split")

  settings = {**dataclasses.asdict(source), "format": _FORMAT}
  del settings["weight"]
  return prepare_build(
    MediaFiles,
    source,
    key=build_key(Path(source.path).name, settings, _identities(source, lines)),
    data_dir=data_dir,
    label=f"pictures and videos of {source.path}",
    check=check,
  )


def read_lines(source: MediaFolder) -> list[Line]:
  """What the folder's metadata say, or one line for each picture and video where it has none.

  Raises:
    UserError: there is no such folder, nothing in it, or a line that is not as it should be.
  """
  folder = Path(source.path).expanduser()
  if not folder.is_dir():
    raise UserError(f"media folder {source.path}: no such folder")
  metadata = folder / METADATA
  if metadata.exists():
    try:
      text = metadata.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
      raise UserError(f"{metadata}: cannot be read as UTF-8 text") from e
    numbered = enumerate(text.splitlines(), 1)
    lines = [_parse(line, f"{metadata} line {i}") for i, line in numbered if line.strip()]
  else:
    found = (p for p in sorted(folder.rglob("*")) if p.suffix.lower() in PICTURES + VIDEOS)
    names = [p.relative_to(folder).as_posix() for p in found if p.is_file()]
    lines = [Line(where=str(folder / name), file_name=name) for name in names]
  if not lines:
    raise UserError(f"media folder {source.path}: no pictures or videos")
  return lines


def split_lines(lines: list[Line], validation_percent: float) -> dict[str, list[Line]]:
  """The lines of each side of the split, in the order of the hash of their names."""
  free = {line.name for line in lines if not line.split}
  halves = files.split([files.TextFile(path=n, name=n) for n in free], validation_percent)
  side = {file.name: split for split in SPLITS for file in getattr(halves, split)}
  ordered = sorted(lines, key=lambda line: (files.TextFile("", line.name).hash, line.name))
  return {
    split: [line for line in ordered if (line.split or side[line.name]) == split]
    for split in SPLITS
  }


def read_example(source: MediaFolder, line: Line) -> MediaExample:
  """Reads the files of a line.

  Raises:
    UserError: a file cannot be read, or a video has fewer frames than `source.frames`.
  """
  folder, document = Path(source.path).expanduser(), None
  if line.document:
    paths = [folder / name for name in line.document[1::2]]
    pictures = [read_media(path, frames=1, side=source.side) for path in paths]
    document = Document(texts=line.document[::2], pictures=np.concatenate(pictures))
  if line.file_name:
    path = folder / line.file_name
    media = read_media(path, most=source.frames, side=source.side, every=source.every)
    if 1 < len(media) < source.frames:
      counted = f" at one in {source.every}" if source.every > 1 else ""
      raise UserError(f"{path}: has {len(media)} frames{counted}, {source.frames} are needed")
  else:
    media = document.pictures[:1]
  return MediaExample(
    media=media,
    captions=line.captions,
    questions=line.questions,
    document=document,
    name=line.where,
  )


def _identities(source: MediaFolder, lines: list[Line]) -> Iterator[Any]:
  """What a change of means another build: what is said, and every file's size and time of change."""
  folder = Path(source.path).expanduser()
  for line in lines:
    yield dataclasses.replace(line, where="")
    for name in [line.file_name] * bool(line.file_name) + list(line.document[1::2]):
      try:
        status = os.stat(folder / name)
      except OSError as e:
        raise UserError(f"{line.where}: {folder / name}: {e.strerror}") from e
      yield status.st_size, status.st_mtime_ns


def _parse(text: str, where: str) -> Line:
  try:
    values = json.loads(text)
  except ValueError as e:
    raise UserError(f"{where}: not JSON ({e})") from e
  values = _object(values, where, known=("file_name", "captions", "questions", "document", "split"))
  captions = values.get("captions", [])
  captions = [captions] if isinstance(captions, str) else captions
  line = Line(
    where=where,
    file_name=_text(values.get("file_name", ""), f"{where}: file_name"),
    captions=tuple(_text(c, f"{where}: captions") for c in _list(captions, f"{where}: captions")),
    questions=tuple(
      _question(q, f"{where}: questions")
      for q in _list(values.get("questions", []), f"{where}: questions")
    ),
    document=_document(_list(values.get("document", []), f"{where}: document"), where),
    split=values.get("split", ""),
  )
  if line.split not in ("", *SPLITS):
    raise UserError(f"{where}: split must be one of {', '.join(SPLITS)}, got {line.split!r}")
  if not line.file_name and not line.document:
    raise UserError(f"{where}: lacks file_name")
  return line


def _question(values: Any, where: str) -> Question:
  values = _object(values, where, known=("question", "answer", "kind"))
  for name in ("question", "answer"):
    if name not in values:
      raise UserError(f"{where}: lacks {name}")
  return Question(**{name: _text(value, f"{where}: {name}") for name, value in values.items()})


def _document(parts: list[Any], where: str) -> tuple[str, ...]:
  """Texts and file names in turn: neighbouring texts are joined, missing ones empty."""
  found: list[str] = [""]
  for part in parts:
    if isinstance(part, str):
      found[-1] += part
    else:
      values = _object(part, f"{where}: document", known=("file_name",))
      found += [_text(values.get("file_name"), f"{where}: document: file_name"), ""]
  if parts and len(found) == 1:
    raise UserError(f"{where}: document has no picture")
  return tuple(found) if parts else ()


def _object(value: Any, where: str, *, known: tuple[str, ...]) -> dict[str, Any]:
  if not isinstance(value, dict):
    raise UserError(f"{where}: must be an object with keys, got {value!r}")
  if unknown := sorted(set(value) - set(known)):
    raise UserError(f"{where}: unknown key {unknown[0]}; known are {', '.join(known)}")
  return value


def _list(value: Any, where: str) -> list[Any]:
  if not isinstance(value, list):
    raise UserError(f"{where} must be a list, got {value!r}")
  return value


def _text(value: Any, where: str) -> str:
  if not isinstance(value, str):
    raise UserError(f"{where} must be text, got {value!r}")
  return value
