"""Checkpoint directories: safetensors files read one tensor at a time and written in shards.

A directory holds `config.json` and either `model.safetensors` or several files that
`model.safetensors.index.json` lists. Everything else in it that is small text (tokenizer, generation
settings, licence) belongs to the user and is carried along.
"""

import contextlib
import json
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ernie_jax.convert.json_values import table
from ernie_jax.errors import UserError

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
SHARD_BYTES = 4 * 2**30  # our choice, near the 5 GB of transformers
_CARRIED = {".json", ".jinja", ".md", ".model", ".txt", ""}
_CARRIED_BYTES = 64 * 2**20


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """A JSON object. Raises: UserError when the file is absent or not one."""
  try:
    value = json.loads(path.read_text())
  except OSError as e:
    raise UserError(f"{path}: {e.strerror}") from e
  except ValueError as e:
    raise UserError(f"{path} is not valid JSON: {e}") from e
  if not isinstance(value, dict):
    raise UserError(f"{path} must hold one JSON object")
  return value


def write_json(path: pathlib.Path, value: Mapping[str, Any]) -> None:
  """Writes a JSON object with two spaces of indentation."""
  path.write_text(json.dumps(value, indent=2) + "\n")


class TensorFiles(Mapping):
  """The tensors of a checkpoint directory by name; a tensor is read when it is asked for.

  Raises (any method): UserError naming the file that is absent, cut short or not what the index says.
  """

  def __init__(self, directory: pathlib.Path):
    self._directory = directory
    self._open: dict[str, Any] = {}
    if (directory / INDEX).exists():
      index = directory / INDEX
      self._file_of = table(read_json(index), "weight_map", file=str(index))
      if not all(isinstance(file, str) for file in self._file_of.values()):
        raise UserError(f"{index}: weight_map must give the name of a file for each tensor")
    elif (directory / SINGLE).exists():
      self._file_of = dict.fromkeys(self._handle(SINGLE).keys(), SINGLE)
    else:
      raise UserError(f"{directory} holds neither {SINGLE} nor {INDEX}")
    for file in self.files:
      absent = {n for n, f in self._file_of.items() if f == file} - set(self._handle(file).keys())
      if absent:
        raise UserError(f"{directory / file} has no tensor {min(absent)}, which {INDEX} lists")

  @property
  def files(self) -> list[str]:
    """The names of the files, in order."""
    return sorted(set(self._file_of.values()))

  def __getitem__(self, name: str) -> np.ndarray:
    return self._handle(self._file_of[name]).get_tensor(name)

  def __iter__(self) -> Iterator[str]:
    return iter(self._file_of)

  def __len__(self) -> int:
    return len(self._file_of)

  def _handle(self, file: str):
    if file not in self._open:
      path = self._directory / file
      if not path.is_file():
        raise UserError(f"{path}, which {INDEX} lists, is not there")
      try:
        self._open[file] = safe_open(path, framework="numpy")
      except (SafetensorError, OSError) as e:
        raise UserError(f"{path} is not a whole safetensors file: {e}") from e
    return self._open[file]


def write_tensors(
  directory: pathlib.Path,
  tensors: Mapping[str, np.ndarray],
  *,
  progress: Callable[[Iterable[str]], Iterable[str]] = iter,
  shard_bytes: int = SHARD_BYTES,
) -> list[str]:
  """Writes tensors in their order, at most `shard_bytes` in a file unless one tensor is larger.

  Returns:
    The names of the files. One file is `model.safetensors`; more are numbered and have an index.
  """
  shards, held, size, total = [], {}, 0, 0
  part = lambda i: directory / f"part-{i}"

  def flush() -> None:
    save_file(held, part(len(shards)), metadata={"format": "pt"})
    shards.append(list(held))
    held.clear()

  for name in progress(tensors):
    tensor = tensors[name]
    if held and size + tensor.nbytes > shard_bytes:
      flush()
      size = 0
    held[name] = tensor
    size += tensor.nbytes
    total += tensor.nbytes
  flush()
  if len(shards) == 1:
    part(0).rename(directory / SINGLE)
    return [SINGLE]
  files = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
  for i, file in enumerate(files):
    part(i).rename(directory / file)
  file_of = {name: file for names, file in zip(shards, files) for name in names}
  write_json(
    directory / INDEX,
    {"metadata": {"total_size": total}, "weight_map": dict(sorted(file_of.items()))},
  )
  return files


def carry_along(source: pathlib.Path, target: pathlib.Path) -> None:
  """Copies the small files that are neither weights nor their index nor config.json."""
  for path in sorted(source.iterdir()):
    own = path.name in (CONFIG, INDEX) or path.name.startswith(".")
    if not path.is_file() or own or path.suffix not in _CARRIED:
      continue
    if path.stat().st_size <= _CARRIED_BYTES:
      shutil.copyfile(path, target / path.name)


@contextlib.contextmanager
def written_whole(target: pathlib.Path, *, named: str) -> Iterator[pathlib.Path]:
  """A new directory to write in that becomes `target` at the end, and vanishes on any error.

  Args:
    named: what the user calls the target, for messages.

  Raises:
    UserError: the target exists and is not an empty directory, or cannot be written.
  """
  if target.exists() and not (target.is_dir() and not any(target.iterdir())):
    raise UserError(f"{named}: {target} exists already and is not an empty directory")
  temporary = None
  try:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    temporary.chmod(0o755)  # mkdtemp's directories are for the owner alone
    yield temporary
    temporary.replace(target)
  except (OSError, SafetensorError) as e:
    raise UserError(f"{named}: writing {target} failed: {e}") from e
  finally:
    if temporary is not None:
      shutil.rmtree(temporary, ignore_errors=True)
