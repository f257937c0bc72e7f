"""Text files as a TFDS data set: one ArrayRecord entry for each piece of at most a few thousand characters.

Training reads pieces at random, so a piece is small, ends at a line end where it can, and says whether
it begins and ends its file. Records are in file order, and files in the order of a hash of their name
(`text.files`), so that any prefix of a split is a fair sample. Only UTF-8 files count; others are
skipped.

A build is named by a hash of its settings and of every file's name, size and time of change: a changed
source is a new build beside the old. TFDS writes into a temporary directory and renames it at the end,
so a build is whole or absent. TensorFlow is not needed.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from array_record.python import array_record_module

from ernie_jax.errors import UserError
from ernie_jax.text import files

_FORMAT = 1  # part of the build's name: raise it when the records of equal settings change


@dataclasses.dataclass(frozen=True)
class TextSource:
  """Where text comes from.

  Attributes:
    path: a directory, file or glob pattern; empty for Python's standard library.
    weight: share of the rows of a mixture, relative to the other sources.
    validation_percent: share of the files held out. Of a single file, its end is held out.
    piece_chars: most characters in one record.
  """

  path: str = ""
  weight: float = 1.0
  validation_percent: float = 5.0
  piece_chars: int = 4000

  def __post_init__(self):
    if not self.weight > 0:
      raise ValueError(f"weight must be positive, got {self.weight}")
    if not 0 < self.validation_percent < 100:
      raise ValueError(f"validation_percent must be in (0, 100), got {self.validation_percent}")
    if self.piece_chars < 1:
      raise ValueError(f"piece_chars must be at least 1, got {self.piece_chars}")

  @property
  def label(self) -> str:
    """What to call the source in messages."""
    return self.path or "Python's standard library"


@dataclasses.dataclass(frozen=True)
class Piece:
  """One record: `text` of the file `path`; `first` and `last` where it begins and ends the file."""

  text: str
  path: str
  first: bool
  last: bool


@dataclasses.dataclass
class _BuildConfig(tfds.core.BuilderConfig):
  """A TFDS configuration that carries the source; its name decides the directory."""

  source: TextSource = dataclasses.field(default_factory=TextSource)


class TextFiles(tfds.core.GeneratorBasedBuilder):
  """The builder; `prepare` is the way to use it."""

  VERSION = tfds.core.Version("1.0.0")
  # Where TFDS looks for lists of downloads and citations. There are none, and looking needs a package
  # that TFDS does not install.
  code_path = None

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description="Text files cut into pieces.",
      features=tfds.features.FeaturesDict(
        {
          "text": tfds.features.Text(),
          "path": tfds.features.Text(),
          "first": np.bool_,
          "last": np.bool_,
        }
      ),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # nothing is downloaded
    source = self.builder_config.source
    return {side: self._generate_examples(source, side) for side in ("train", "validation")}

  def _generate_examples(self, source: TextSource, side: str):
    key = 0
    for name, text in documents(source, side):
      for piece in cut(text, path=name, most=source.piece_chars):
        yield key, {**dataclasses.asdict(piece), "path": name.encode("utf-8", "surrogateescape")}
        key += 1


def documents(source: TextSource, side: str) -> Iterator[tuple[str, str]]:
  """Name and text of the files on one side of the split ("train" or "validation"), in hash order."""
  sides = files.sides(source.path, source.validation_percent)
  if not sides.validation:
    (only,) = sides.train
    text = files.read(only) or ""
    middle = int(len(text) * (1 - source.validation_percent / 100))
    middle = text.find("\n", middle, -1) + 1 or middle
    halves = {"train": text[:middle], "validation": text[middle:]}
    if halves[side]:
      yield only.name, halves[side]
    return
  for file in getattr(sides, side):
    text = files.read(file)
    if text is not None:
      yield file.name, text


def cut(text: str, *, path: str, most: int) -> Iterator[Piece]:
  """Pieces of at most `most` characters, each as many whole lines as fit; a longer line is cut."""
  start = 0
  while start < len(text):
    end = min(start + most, len(text))
    if end < len(text):
      end = text.rfind("\n", start, end) + 1 or end
    yield Piece(text=text[start:end], path=path, first=start == 0, last=end == len(text))
    start = end


@dataclasses.dataclass(frozen=True)
class Build:
  """A prepared source: `directory` holds its shards, and `key` names its contents."""

  directory: Path
  key: str


def prepare(source: TextSource, data_dir: str | os.PathLike) -> Build:
  """Builds the records of `source` under `data_dir`, unless that very build is there already.

  Processes that share the directory wait for one another. A run that was killed leaves nothing that
  counts as a build, and what it left is removed by the next.

  Raises:
    UserError: no such source, no UTF-8 text for both sides of its split, or `data_dir` cannot be written.
  """
  key = _build_key(source)
  root = Path(data_dir).expanduser() / "text_files" / key
  directory = root / str(TextFiles.VERSION)
  if not directory.exists():
    try:
      root.mkdir(parents=True, exist_ok=True)
      with open(root / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.exists():
          _write(source, key=key, root=root)
    except OSError as e:
      raise UserError(f"cannot prepare text under {root}: {e.strerror or e}") from e
  return Build(directory=directory, key=key)


def _write(source: TextSource, *, key: str, root: Path) -> None:
  for left in root.glob("incomplete.*"):
    shutil.rmtree(left)
  for side in ("train", "validation"):
    if next(documents(source, side), None) is None:
      raise UserError(f"text source {source.label}: too little text for a {side} side")
  print(f"preparing text of {source.label} under {root}", file=sys.stderr)
  tfds.disable_progress_bar()
  config = tfds.download.DownloadConfig(try_download_gcs=False)
  with contextlib.redirect_stdout(io.StringIO()), _errors_only():
    builder = TextFiles(
      config=_BuildConfig(name=key, source=source),
      data_dir=root.parent.parent,
      file_format="array_record",
    )
    builder.download_and_prepare(download_dir=root / "downloads", download_config=config)
  shutil.rmtree(root / "downloads", ignore_errors=True)


@contextlib.contextmanager
def _errors_only() -> Iterator[None]:
  """Keeps back TFDS's warnings that a configuration is not one of its own list."""
  level = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    yield
  finally:
    logging.set_verbosity(level)


def _build_key(source: TextSource) -> str:
  """A readable label and a hash of the settings and of every file's name, size and time of change."""
  settings = {**dataclasses.asdict(source), "format": _FORMAT}
  del settings["weight"]
  digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
  for file in files.find(source.path):
    status = os.stat(file.path)
    digest.update(repr((file.name, status.st_size, status.st_mtime_ns)).encode())
  label = re.sub(r"\W+", "_", Path(source.path).name) if source.path else "stdlib"
  return f"{label[:40]}-{digest.hexdigest()[:16]}"


class Pieces(Sequence[Piece]):
  """Random access to the pieces of one split of a build."""

  def __init__(self, build: Build, split: str):
    """Opens the split and checks that every shard is whole.

    Raises:
      UserError: a shard is missing, cut short or damaged at its end, or the build cannot be read.
    """
    self.build, self.split = build, split
    try:
      builder = tfds.builder_from_directory(build.directory)
      info = builder.info.splits[split]
    except Exception as e:  # whatever TFDS meets in a damaged description
      raise UserError(
        f"text build {build.directory} is damaged: delete it to build it again"
      ) from e
    for path, count in zip(info.filepaths, info.shard_lengths):
      _check_shard(os.fspath(path), count)
    self._source = builder.as_data_source(split=split)

  @property
  def key(self) -> str:
    """Names these pieces, for cache keys."""
    return f"{self.build.key}-{self.split}"

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> Piece:
    if not 0 <= index < len(self):
      raise IndexError(index)  # which ends a loop over a sequence
    try:
      record = self._source[index]
    except Exception as e:  # the reader raises what its C++ side tells it
      raise UserError(
        f"text build {self.build.directory}: record {index} of {self.split} cannot be read; "
        "delete it to build it again"
      ) from e
    return Piece(
      text=record["text"].decode("utf-8"),
      path=record["path"].decode("utf-8", "surrogateescape"),
      first=bool(record["first"]),
      last=bool(record["last"]),
    )


def _check_shard(path: str, count: int) -> None:
  """A cut file loses its index, which is at the end, so counting and reading the last record is enough."""
  try:
    reader = array_record_module.ArrayRecordReader(path)
    whole = reader.ok() and reader.num_records() == count and len(reader.read([count - 1])) == 1
    reader.close()
  except (RuntimeError, OSError, IndexError, ValueError):
    whole = False
  if not whole:
    raise UserError(
      f"record file {path} is missing, cut short or damaged: delete {Path(path).parent} to build it again"
    )
