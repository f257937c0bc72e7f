"""The user's own speech: a folder of WAV and FLAC files, and what is said in them in JSON lines.

`metadata.jsonl` in the folder has one object a line; every key but `file_name` may be left out:

    {"file_name": "a/1.wav", "transcript": "good morning", "speaker": "anna"}
    {"file_name": "2.flac", "transcript": "good night", "split": "validation"}

Without that file every sound file in the folder is taken; what is said is the text of the file of the same
name that ends in .txt, if there is one. A line goes to the side of the split it names, else to that of the
hash of its file's name. Everything is brought to 16 kHz and one channel once, and kept as records.
"""

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ernie_jax.data.audio import RATE, SOUNDS, read_audio, to_int16
from ernie_jax.data.builds import Build, build_key, prepare_build
from ernie_jax.data.speech_example import SpeechExample
from ernie_jax.data.speech_records import SpeechBuilder
from ernie_jax.errors import UserError
from ernie_jax.text import files

METADATA = "metadata.jsonl"
SPLITS = ("train", "validation")
_KEYS = ("file_name", "transcript", "speaker", "split")
_FORMAT = 1  # part of the build's name: raise it when the records of equal settings change


@dataclasses.dataclass(frozen=True)
class SpeechFolder:
  """A folder of sound files; see the module docstring.

  Attributes:
    path: the folder.
    max_seconds: a longer file is refused by name: half of it would not be what its transcript says.
    validation_percent: share of the files held out, where a line names no split.
    weight: share of the rows of a mixture, relative to the other sources.
  """

  path: str
  max_seconds: float = 30.0
  validation_percent: float = 5.0
  weight: float = 1.0

  def __post_init__(self):
    for name in ("max_seconds", "weight"):
      if not getattr(self, name) > 0:
        raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
    if not 0 < self.validation_percent < 100:
      raise ValueError(f"validation_percent must be in (0, 100), got {self.validation_percent}")

  @property
  def label(self) -> str:
    """What to call the source in messages."""
    return self.path


@dataclasses.dataclass(frozen=True)
class Line:
  """One line of the metadata, checked but with its file unread.

  Attributes:
    where: file and line number, for messages.
    file_name: relative to the folder.
    transcript, speaker: see `SpeechExample`.
    split: of `SPLITS`; empty for that of the hash.
  """

  where: str
  file_name: str
  transcript: str = ""
  speaker: str = ""
  split: str = ""


class SpeechFiles(SpeechBuilder):
  """Sound files of a folder; `prepare` is the way to use it."""

  def splits(self) -> tuple[str, ...]:
    """See `SPLITS`."""
    return SPLITS

  def examples(self, split: str) -> Iterator[SpeechExample]:
    """The lines of one side of the split, read."""
    source = self.builder_config.source
    for line in split_lines(read_lines(source), source.validation_percent)[split]:
      yield read_example(source, line)


def prepare(source: SpeechFolder, data_dir: str | os.PathLike) -> Build:
  """Builds the records of `source` under `data_dir`, unless that very build is there already.

  Raises:
    UserError: the folder, its metadata or a file that they name cannot be used, or a side of the split is
      empty.
  """
  lines = read_lines(source)

  def check():
    for split, chosen in split_lines(lines, source.validation_percent).items():
      if not chosen:
        raise UserError(f"speech folder {source.path}: no file for the {split} side of the split")

  settings = {**dataclasses.asdict(source), "format": _FORMAT}
  del settings["weight"]
  return prepare_build(
    SpeechFiles,
    source,
    key=build_key(Path(source.path).name, settings, _identities(source, lines)),
    data_dir=data_dir,
    label=f"speech of {source.path}",
    check=check,
  )


def read_lines(source: SpeechFolder) -> list[Line]:
  """What the folder's metadata say, or one line for each sound file where it has none.

  Raises:
    UserError: there is no such folder, nothing in it, or a line that is not as it should be.
  """
  folder = Path(source.path).expanduser()
  if not folder.is_dir():
    raise UserError(f"speech folder {source.path}: no such folder")
  metadata = folder / METADATA
  if metadata.exists():
    numbered = enumerate(_text_of(metadata).splitlines(), 1)
    lines = [_parse(line, f"{metadata} line {i}") for i, line in numbered if line.strip()]
  else:
    found = (p for p in sorted(folder.rglob("*")) if p.suffix.lower() in SOUNDS)
    lines = [_bare_line(folder, path) for path in found if path.is_file()]
  if not lines:
    raise UserError(f"speech folder {source.path}: no WAV or FLAC files")
  return lines


def split_lines(lines: list[Line], validation_percent: float) -> dict[str, list[Line]]:
  """The lines of each side of the split, in the order of the hash of their names."""
  free = {line.file_name for line in lines if not line.split}
  halves = files.split([files.TextFile(path=n, name=n) for n in free], validation_percent)
  side = {file.name: split for split in SPLITS for file in getattr(halves, split)}
  key = lambda line: (files.TextFile("", line.file_name).hash, line.file_name)
  ordered = sorted(lines, key=key)
  return {
    split: [line for line in ordered if (line.split or side[line.file_name]) == split]
    for split in SPLITS
  }


def read_example(source: SpeechFolder, line: Line) -> SpeechExample:
  """Reads the file of a line.

  Raises:
    UserError: it cannot be read, or is longer than `source.max_seconds`.
  """
  path = Path(source.path).expanduser() / line.file_name
  waveform = read_audio(path)
  if len(waveform) > source.max_seconds * RATE:
    raise UserError(
      f"{path}: {len(waveform) / RATE:.1f} s, longer than max_seconds={source.max_seconds:g}"
    )
  return SpeechExample(
    waveform=to_int16(waveform),
    transcript=line.transcript,
    speaker=line.speaker,
    name=line.where,
  )


def _identities(source: SpeechFolder, lines: list[Line]) -> Iterator[Any]:
  """What a change of means another build: what is said, and every file's size and time of change."""
  folder = Path(source.path).expanduser()
  for line in lines:
    yield dataclasses.replace(line, where="")
    try:
      status = os.stat(folder / line.file_name)
    except OSError as e:
      raise UserError(f"{line.where}: {folder / line.file_name}: {e.strerror}") from e
    yield status.st_size, status.st_mtime_ns


def _bare_line(folder: Path, path: Path) -> Line:
  said = path.with_suffix(".txt")
  transcript = " ".join(_text_of(said).split()) if said.is_file() else ""
  return Line(where=str(path), file_name=path.relative_to(folder).as_posix(), transcript=transcript)


def _text_of(path: Path) -> str:
  try:
    return path.read_text(encoding="utf-8")
  except (OSError, UnicodeDecodeError) as e:
    raise UserError(f"{path}: cannot be read as UTF-8 text") from e


def _parse(text: str, where: str) -> Line:
  try:
    values = json.loads(text)
  except ValueError as e:
    raise UserError(f"{where}: not JSON ({e})") from e
  if not isinstance(values, dict):
    raise UserError(f"{where}: must be an object with keys, got {values!r}")
  if unknown := sorted(set(values) - set(_KEYS)):
    raise UserError(f"{where}: unknown key {unknown[0]}; known are {', '.join(_KEYS)}")
  if not values.get("file_name"):
    raise UserError(f"{where}: lacks file_name")
  for name, value in values.items():
    if not isinstance(value, str):
      raise UserError(f"{where}: {name} must be text, got {value!r}")
  line = Line(where=where, **values)
  if line.split not in ("", *SPLITS):
    raise UserError(f"{where}: split must be one of {', '.join(SPLITS)}, got {line.split!r}")
  return line
