"""Which text files a source means, in an order and a split that never depend on the file system.

A source is a directory (searched for `SUFFIXES`), a glob pattern, one file, or nothing: the `.py` files
of Python's own standard library, about 31 MB of real text that every machine has. Files are put in the
order of a hash of their relative path, so that any prefix is a fair sample, and the split is by file.
"""

import dataclasses
import glob
import hashlib
import os
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

from ernie_jax.errors import UserError

SUFFIXES = (".txt", ".md", ".rst", ".py")  # what a directory is searched for; a glob takes anything
_HASH_RANGE = 2**64


@dataclasses.dataclass(frozen=True)
class TextFile:
  """One file: where it is, and `name`, its path relative to the source, which orders and splits it."""

  path: str
  name: str

  @property
  def hash(self) -> int:
    """A 64-bit number that depends on `name` alone."""
    digest = hashlib.blake2b(self.name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


@dataclasses.dataclass(frozen=True)
class Split:
  """The files of each side of the split, each in hash order."""

  train: tuple[TextFile, ...]
  validation: tuple[TextFile, ...]


def find(source: str = "") -> list[TextFile]:
  """The files of `source` in hash order; see the module docstring for what `source` may be.

  Raises:
    UserError: nothing is there, it cannot be listed, or it holds no file of the wanted kind.
  """
  source = os.path.expanduser(source)
  if not source:
    root = Path(sysconfig.get_path("stdlib"))
    paths = [p for p in _walk(root, (".py",)) if "site-packages" not in p.relative_to(root).parts]
  elif glob.has_magic(source) and not os.path.exists(source):
    root = Path(_fixed_part(source))
    paths = [Path(p) for p in glob.glob(source, recursive=True) if os.path.isfile(p)]
  elif os.path.isdir(source):
    root = Path(source)
    paths = _walk(root, SUFFIXES)
  elif os.path.isfile(source):
    root = Path(source).parent
    paths = [Path(source)]
  else:
    raise UserError(f"text source {source}: no such file or directory")
  files = [TextFile(path=str(p), name=p.relative_to(root).as_posix()) for p in paths]
  if not files:
    wanted = "" if glob.has_magic(source) else f" (looked for {', '.join(SUFFIXES)})"
    raise UserError(f"text source {source or root}: no text files found{wanted}")
  return sorted(files, key=lambda f: (f.hash, f.name))


def split(files: Sequence[TextFile], validation_percent: float) -> Split:
  """Puts about `validation_percent` of the files, chosen by the hash of their name, in validation.

  A file never changes sides when others come or go, with one exception: where the rule would leave a
  side empty and there are two files or more, the nearest file crosses over. One file stays in train.
  """
  limit = validation_percent / 100 * _HASH_RANGE
  ordered = sorted(files, key=lambda f: (f.hash, f.name))
  count = sum(f.hash < limit for f in ordered)
  if len(ordered) > 1:
    count = min(max(count, 1), len(ordered) - 1)
  elif ordered:
    count = 0
  return Split(train=tuple(ordered[count:]), validation=tuple(ordered[:count]))


def sides(source: str, validation_percent: float) -> Split:
  """Finds and splits the files of `source` so that each side has text.

  Raises:
    UserError: as `find`, or no file is UTF-8 text.
  """
  found = find(source)
  chosen = split(found, validation_percent)
  if any(map(read, chosen.train)) and any(map(read, chosen.validation)):
    return chosen
  readable = [f for f in found if read(f)]  # few files or poor ones: only then is each of them read
  if not readable:
    raise UserError(f"text source {source or 'stdlib'}: no UTF-8 text in its {len(found)} files")
  return split(readable, validation_percent)


def texts(chosen: Split, side: str, validation_percent: float) -> Iterator[tuple[TextFile, str]]:
  """The files on one side ("train" or "validation") that are UTF-8 text, with that text, in hash order.

  Of a single file both sides have a part: `validation_percent` of it, its end, is held out.
  """
  single = not chosen.validation
  for file in chosen.train if single else getattr(chosen, side):
    text = read(file) or ""
    if single:
      text = _halves(text, validation_percent)[side]
    if text:
      yield file, text


def read(file: TextFile) -> str | None:
  """The text of `file` with its line ends as they are, or None where it is empty or not UTF-8.

  Other encodings are skipped and not guessed: a wrong guess trains on noise.

  Raises:
    UserError: the file cannot be opened.
  """
  try:
    data = Path(file.path).read_bytes()
  except OSError as e:
    raise UserError(f"text file {file.path}: {e.strerror}") from e
  try:
    return data.decode("utf-8") or None
  except UnicodeDecodeError:
    return None


def _halves(text: str, validation_percent: float) -> dict[str, str]:
  """Both sides of one text, cut at the beginning of a line where there is one."""
  middle = int(len(text) * (1 - validation_percent / 100))
  middle = text.find("\n", middle, -1) + 1 or middle
  return {"train": text[:middle], "validation": text[middle:]}


def _walk(root: Path, suffixes: tuple[str, ...]) -> list[Path]:
  def refuse(error: OSError) -> None:
    raise UserError(f"text source {error.filename}: {error.strerror}") from error

  found = []
  for directory, _, names in os.walk(root, onerror=refuse):
    found += [Path(directory, n) for n in names if n.lower().endswith(suffixes)]
  return [p for p in found if p.is_file()]


def _fixed_part(pattern: str) -> str:
  """The directory part of a glob pattern before its first wildcard."""
  parts = Path(pattern).parts
  fixed = []
  for part in parts[:-1]:
    if glob.has_magic(part):
      break
    fixed.append(part)
  return str(Path(*fixed)) if fixed else "."
