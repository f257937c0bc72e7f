"""The user's own pictures and videos: a folder, and what is said about them in JSON lines.

`metadata.jsonl` in the folder has one object a line:

    {"file_name": "cats/1.jpg", "captions": "a cat on a chair"}
    {"file_name": "2.mp4", "captions": ["a dog runs", "a running dog"], "split": "validation",
     "questions": [{"question": "What runs?", "answer": "a dog", "kind": "what"}]}
    {"document": ["First the egg", {"file_name": "egg.png"}, "then the hen.", {"file_name": "hen.png"}]}

Every key may be left out, but for `file_name` where there is no document with a picture. Without that file
every picture and video in the folder is taken, with nothing said. A line goes to the side of the split it
names, else to that of the hash of its file's name; lines that share a file must be on the same. Everything is
decoded once, to one size, and kept as records.
"""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ernie_jax.data import folders
from ernie_jax.data.builds import Build, build_key, prepare_build
from ernie_jax.data.folders import SPLITS, as_object, as_text, split_lines
from ernie_jax.data.media import PICTURES, VIDEOS, read_media
from ernie_jax.data.media_example import Document, MediaExample, Question
from ernie_jax.data.media_records import MediaBuilder
from ernie_jax.errors import UserError

_KEYS = ("file_name", "captions", "questions", "document", "split")
_FORMAT = 1  # part of the build's name: raise it when the records of equal settings change


@dataclasses.dataclass(frozen=True)
class MediaFolder:
  """A folder of pictures and videos; see the module docstring.

  Attributes:
    path: the folder.
    side: the middle square is resized to side x side pixels.
    frames: of a video (1 + 4n), its first ones; 1: only the first, as a picture. A shorter one is refused.
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
      empty or has a file of the other.
  """
  lines = read_lines(source)
  settings = {**dataclasses.asdict(source), "format": _FORMAT}
  del settings["weight"]
  key = build_key(
    Path(source.path).name, settings, folders.identities(source.path, lines, _files_of)
  )
  folders.check_sides(source.path, lines, source.validation_percent, _files_of)
  return prepare_build(
    MediaFiles,
    source,
    key=key,
    data_dir=data_dir,
    label=f"pictures and videos of {source.path}",
  )


def read_lines(source: MediaFolder) -> list[Line]:
  """What the folder's metadata say, or one line for each picture and video where it has none.

  Raises:
    UserError: there is no such folder, nothing in it, or a line that is not as it should be.
  """
  return folders.read_lines(
    source.path, what="pictures or videos", endings=PICTURES + VIDEOS, parse=_parse, bare=_bare_line
  )


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
    moves = len(media) > 1 or path.suffix.lower() in VIDEOS
    if moves and len(media) < source.frames:
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


def _files_of(line: Line) -> list[str]:
  return [line.file_name] * bool(line.file_name) + list(line.document[1::2])


def _bare_line(folder: Path, path: Path) -> Line:
  return Line(where=str(path), file_name=path.relative_to(folder).as_posix())


def _parse(text: str, where: str) -> Line:
  values = folders.parse_object(text, where, known=_KEYS)
  captions = values.get("captions", [])
  captions = [captions] if isinstance(captions, str) else captions
  line = Line(
    where=where,
    file_name=as_text(values.get("file_name", ""), f"{where}: file_name"),
    captions=tuple(as_text(c, f"{where}: captions") for c in _list(captions, f"{where}: captions")),
    questions=tuple(
      _question(q, f"{where}: questions")
      for q in _list(values.get("questions", []), f"{where}: questions")
    ),
    document=_document(_list(values.get("document", []), f"{where}: document"), where),
    split=values.get("split", ""),
  )
  if not line.file_name and not line.document:
    raise UserError(f"{where}: lacks file_name")
  return line


def _question(values: Any, where: str) -> Question:
  values = as_object(values, where, known=("question", "answer", "kind"))
  for name in ("question", "answer"):
    if name not in values:
      raise UserError(f"{where}: lacks {name}")
  return Question(**{name: as_text(value, f"{where}: {name}") for name, value in values.items()})


def _document(parts: list[Any], where: str) -> tuple[str, ...]:
  """Texts and file names in turn: neighbouring texts are joined, missing ones empty."""
  found: list[str] = [""]
  for part in parts:
    if isinstance(part, str):
      found[-1] += part
    else:
      values = as_object(part, f"{where}: document", known=("file_name",))
      found += [as_text(values.get("file_name"), f"{where}: document: file_name"), ""]
  if parts and len(found) == 1:
    raise UserError(f"{where}: document has no picture")
  return tuple(found) if parts else ()


def _list(value: Any, where: str) -> list[Any]:
  if not isinstance(value, list):
    raise UserError(f"{where} must be a list, got {value!r}")
  return value
