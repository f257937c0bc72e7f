"""Text files as a TFDS data set: one ArrayRecord entry for each piece of at most a few thousand characters.

Training reads pieces at random, so a piece is small, ends at a line end where it can, and says whether
it begins and ends its file. Records are in file order, and files in the order of a hash of their name
(`text.files`), so that any prefix of a split is a fair sample. Only UTF-8 files count; others are
skipped.
"""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from ernie_jax.data.builds import Build, Records, build_key, prepare_build
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
    bpe_dropout: of this source's training text; None: `config.data.bpe_dropout`.
  """

  path: str = ""
  weight: float = 1.0
  validation_percent: float = 5.0
  piece_chars: int = 4000
  bpe_dropout: float | None = None

  def __post_init__(self):
    if not self.weight > 0:
      raise ValueError(f"weight must be positive, got {self.weight}")
    if not 0 < self.validation_percent < 100:
      raise ValueError(f"validation_percent must be in (0, 100), got {self.validation_percent}")
    if self.piece_chars < 1:
      raise ValueError(f"piece_chars must be at least 1, got {self.piece_chars}")
    if self.bpe_dropout is not None and not 0 <= self.bpe_dropout <= 1:
      raise ValueError(f"bpe_dropout must be in [0, 1], got {self.bpe_dropout}")

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
  chosen = files.sides(source.path, source.validation_percent)
  for file, text in files.texts(chosen, side, source.validation_percent):
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


def prepare(source: TextSource, data_dir: str | os.PathLike) -> Build:
  """Builds the records of `source` under `data_dir`, unless that very build is there already.

  Raises:
    UserError: no such source, no UTF-8 text for both sides of its split, or `data_dir` cannot be written.
  """

  def check():
    for side in ("train", "validation"):
      if next(documents(source, side), None) is None:
        raise UserError(f"text source {source.label}: too little text for a {side} side")

  return prepare_build(
    TextFiles,
    source,
    key=_build_key(source),
    data_dir=data_dir,
    label=f"text of {source.label}",
    check=check,
  )


def _build_key(source: TextSource) -> str:
  """Names the settings and every file's name, size and time of change."""
  settings = {**dataclasses.asdict(source), "format": _FORMAT}
  del settings["weight"], settings["bpe_dropout"]

  def parts():
    for file in files.find(source.path):
      status = os.stat(file.path)
      yield file.name, status.st_size, status.st_mtime_ns

  return build_key(Path(source.path).name if source.path else "stdlib", settings, parts())


class Pieces(Sequence[Piece]):
  """Random access to the pieces of one split of a build."""

  def __init__(self, build: Build, split: str):
    """Opens the split and checks that every shard is whole.

    Raises:
      UserError: a shard is missing, cut short or damaged at its end, or the build cannot be read.
    """
    self.build, self.split = build, split
    self._records = Records(build, split, what="text build")

  @property
  def key(self) -> str:
    """Names these pieces, for cache keys."""
    return f"{self.build.key}-{self.split}"

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> Piece:
    record = self._records[index]
    return Piece(
      text=record["text"].decode("utf-8"),
      path=record["path"].decode("utf-8", "surrogateescape"),
      first=bool(record["first"]),
      last=bool(record["last"]),
    )
