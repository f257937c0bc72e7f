"""Writing a file so that it is there complete or not at all."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

from ernie_jax.errors import UserError


@contextlib.contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Yields a temporary path beside `path`, which takes its place when the block ends well.

  Missing folders are made. If the block fails, nothing is left behind and an old file stays.

  Raises:
    UserError: the file cannot be written; the line names it.
  """
  path = pathlib.Path(path)
  part = path.with_name(f".{path.name}.{os.getpid()}.part")
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    yield part
    part.replace(path)
  except OSError as e:
    raise UserError(f"cannot write {path}: {e.strerror or e}") from e
  finally:
    with contextlib.suppress(OSError):
      part.unlink(missing_ok=True)
