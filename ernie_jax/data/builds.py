"""Prepared records: where a TFDS build lies, how it is made once and whole, and how a split is opened.

A build is named by a hash of what it is made from, so a changed source is a new build beside the old. TFDS
writes into a temporary directory and renames it at the end, so a build is whole or absent. TensorFlow is
not needed (see `_spilled_by_python`).
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
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from absl import logging
from array_record.python import array_record_module
from tensorflow_datasets.core import shuffle

from ernie_jax.errors import UserError

_SPILLS = 200  # files of what does not fit in memory


@dataclasses.dataclass(frozen=True)
class Build:
  """A prepared source: `directory` holds its shards, and `key` names its contents."""

  directory: Path
  key: str


@dataclasses.dataclass
class SourceConfig(tfds.core.BuilderConfig):
  """A TFDS configuration that carries the source; its name decides the directory."""

  source: Any = None


def build_key(label: str, settings: dict[str, Any], parts: Iterator[Any] = ()) -> str:
  """A readable label and a hash of `settings` (ready for JSON) and of the repr of each of `parts`."""
  digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
  for part in parts:
    digest.update(repr(part).encode())
  label = re.sub(r"\W+", "_", label)
  return f"{label[:40]}-{digest.hexdigest()[:16]}"


def prepare_build(
  builder: type[tfds.core.GeneratorBasedBuilder],
  source: Any,
  *,
  key: str,
  data_dir: str | os.PathLike,
  label: str,
  check: Callable[[], None] = lambda: None,
) -> Build:
  """Builds the records of `source` under `data_dir`, unless that very build is there already.

  Processes that share the directory wait for one another. A run that was killed leaves nothing that
  counts as a build, and what it left is removed by the next.

  Args:
    builder: its `builder_config.source` will be `source`.
    source: what to build.
    key: names the build (`build_key`).
    data_dir: where builds of all kinds lie.
    label: what to call the source in messages.
    check: raises before anything is written if the source cannot be built.

  Raises:
    UserError: `data_dir` cannot be written; what `check` and the builder raise.
  """
  root = Path(data_dir).expanduser() / builder.name / key
  directory = root / str(builder.VERSION)
  if not directory.exists():
    try:
      root.mkdir(parents=True, exist_ok=True)
      with open(root / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.exists():
          for left in root.glob("incomplete.*"):
            shutil.rmtree(left)
          check()
          print(f"preparing {label} under {root}", file=sys.stderr)
          _write(builder, source, key=key, root=root)
    except OSError as e:
      raise UserError(f"cannot prepare {label} under {root}: {e.strerror or e}") from e
  return Build(directory=directory, key=key)


def _write(builder: type, source: Any, *, key: str, root: Path) -> None:
  tfds.disable_progress_bar()
  config = tfds.download.DownloadConfig(try_download_gcs=False)
  with contextlib.redirect_stdout(io.StringIO()), _errors_only(), _spilled_by_python():
    instance = builder(
      config=SourceConfig(name=key, source=source),
      data_dir=root.parent.parent,
      file_format="array_record",
    )
    instance.download_and_prepare(download_dir=root / "downloads", download_config=config)
  shutil.rmtree(root / "downloads", ignore_errors=True)


@contextlib.contextmanager
def _spilled_by_python() -> Iterator[None]:
  """What TFDS shuffles beyond 1 GB goes through files, for which alone it would need TensorFlow; not here.

  Fewer files than its 1,000 stay within the usual limit of open ones; the order does not depend on it.
  """
  gfile = types.SimpleNamespace(GFile=open, exists=os.path.exists, remove=os.remove)
  never = types.SimpleNamespace(ResourceExhaustedError=type("Never", (Exception,), {}))
  changed = {
    "tf": types.SimpleNamespace(io=types.SimpleNamespace(gfile=gfile), errors=never),
    "BUCKETS_NUMBER": _SPILLS,
  }
  kept = {name: getattr(shuffle, name) for name in changed}
  vars(shuffle).update(changed)
  try:
    yield
  finally:
    vars(shuffle).update(kept)


@contextlib.contextmanager
def _errors_only() -> Iterator[None]:
  """Keeps back TFDS's warnings that a configuration is not one of its own list."""
  level = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    yield
  finally:
    logging.set_verbosity(level)


class Records(Sequence[dict[str, Any]]):
  """Random access to the records of one split of a build, as TFDS decodes them."""

  def __init__(self, build: Build, split: str, *, what: str):
    """Opens the split and checks that every shard is whole.

    Args:
      build: what `prepare_build` returned, or a directory that TFDS wrote in the ArrayRecord format.
      split: its name.
      what: what to call the build in messages, such as "text build".

    Raises:
      UserError: a shard is missing, cut short or damaged at its end, or the build cannot be read.
    """
    self.build, self.split, self._what = build, split, what
    try:
      builder = tfds.builder_from_directory(build.directory)
      info = builder.info.splits[split]
      self.metadata = dict(builder.info.metadata or {})
    except Exception as e:  # whatever TFDS meets in a damaged description
      raise UserError(f"{what} {build.directory} is damaged: delete it to build it again") from e
    for path, count in zip(info.filepaths, info.shard_lengths):
      _check_shard(os.fspath(path), count)
    self._source = builder.as_data_source(split=split)

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> dict[str, Any]:
    if not 0 <= index < len(self):
      raise IndexError(index)  # which ends a loop over a sequence
    try:
      return self._source[index]
    except Exception as e:  # the reader raises what its C++ side tells it
      raise UserError(
        f"{self._what} {self.build.directory}: record {index} of {self.split} cannot be read; "
        "delete it to build it again"
      ) from e


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
