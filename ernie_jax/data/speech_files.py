"""The user's own speech: a folder of WAV and FLAC files, and what is said in them in JSON lines.

`metadata.jsonl` in the folder has one object a line; every key but `file_name` may be left out:

    {"file_name": "a/1.wav", "transcript": "good morning", "speaker": "anna"}
    {"file_name": "2.flac", "transcript": "good night", "split": "validation"}

Without that file every sound file in the folder is taken; what is said is the text of the file of the same
name that ends in .txt, if there is one. A line goes to the side of the split it names, else to that of the
hash of its file's name; lines that share a file must be on the same. Everything is brought to 16 kHz and one
channel once, and kept as records.
"""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

from ernie_jax.data import folders
from ernie_jax.data.audio import RATE, SOUNDS, read_audio, to_int16
from ernie_jax.data.builds import Build, build_key, prepare_build
from ernie_jax.data.folders import SPLITS, as_text, split_lines
from ernie_jax.data.speech_example import SpeechExample
from ernie_jax.data.speech_records import SpeechBuilder
from ernie_jax.errors import UserError

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

  @property
  def name(self) -> str:
    """The file that decides the order and the split."""
    return self.file_name


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
    SpeechFiles,
    source,
    key=key,
    data_dir=data_dir,
    label=f"speech of {source.path}",
  )


def read_lines(source: SpeechFolder) -> list[Line]:
  """What the folder's metadata say, or one line for each sound file where it has none.

  Raises:
    UserError: there is no such folder, nothing in it, or a line that is not as it should be.
  """
  return folders.read_lines(
    source.path, what="WAV or FLAC files", endings=SOUNDS, parse=_parse, bare=_bare_line
  )


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


def _files_of(line: Line) -> list[str]:
  return [line.file_name]


def _bare_line(folder: Path, path: Path) -> Line:
  said = path.with_suffix(".txt")
  transcript = " ".join(folders.text_of(said).split()) if said.is_file() else ""
  return Line(where=str(path), file_name=path.relative_to(folder).as_posix(), transcript=transcript)


def _parse(text: str, where: str) -> Line:
  values = folders.parse_object(text, where, known=_KEYS)
  if not values.get("file_name"):
    raise UserError(f"{where}: lacks file_name")
  return Line(where=where, **{k: as_text(v, f"{where}: {k}") for k, v in values.items()})
