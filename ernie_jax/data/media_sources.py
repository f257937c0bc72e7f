"""One way to open pictures and videos wherever they come from."""

import os
from typing import Protocol

from ernie_jax.data import media_files
from ernie_jax.data.media_example import MediaExample
from ernie_jax.data.media_files import MediaFolder
from ernie_jax.data.media_records import MediaExamples
from ernie_jax.data.media_tfds import MediaTfds, TfdsExamples
from ernie_jax.data.world import scenes
from ernie_jax.data.world.scenes import WorldSource

MediaSource = WorldSource | MediaFolder | MediaTfds


class Examples(Protocol):
  """Random access to media examples.

  `fingerprint` names their contents, the same on any machine; `key` these examples, for cache keys.
  """

  fingerprint: str
  key: str

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> MediaExample: ...


def open_examples(source: MediaSource, split: str, *, data_dir: str | os.PathLike) -> Examples:
  """Opens a split, after preparing the source under `data_dir` where that is needed.

  Args:
    source: the world, a folder or a TFDS set.
    split: "train" or "validation"; of the world, also "held_out".
    data_dir: where prepared records are kept.

  Raises:
    UserError: the source cannot be used; one line that says why.
    ValueError: the source has no such split.
  """
  known = scenes.SPLITS if isinstance(source, WorldSource) else media_files.SPLITS
  if split not in known:
    raise ValueError(f"{source.label} has the splits {', '.join(known)}, not {split}")
  if isinstance(source, MediaTfds):
    return TfdsExamples(source, split)
  prepare = scenes.prepare if isinstance(source, WorldSource) else media_files.prepare
  return MediaExamples(prepare(source, data_dir), split)
