"""Batches of pixels alone, for the visual tokenizer (`row_batches` says how they are drawn)."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from ernie_jax.data.media_files import MediaFolder
from ernie_jax.data.media_sources import Examples, MediaSource, open_examples
from ernie_jax.data.media_tfds import MediaTfds
from ernie_jax.data.row_batches import RowBatches
from ernie_jax.data.world.scenes import WorldSource
from ernie_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class PixelsConfig:
  """Which pictures and videos, and how many at a time.

  Attributes:
    worlds, folders, tfds: the sources, each with its weight.
    frames: of a row; the first ones of each video. 1 also takes the first frame of videos.
    rows_per_batch: pictures or videos of a batch over all hosts.
    seed: of the order.
    data_dir: where prepared records are kept; shared by runs.
    cache_mb: memory in which what was read is kept.
  """

  worlds: tuple[WorldSource, ...] = (WorldSource(),)
  folders: tuple[MediaFolder, ...] = ()
  tfds: tuple[MediaTfds, ...] = ()
  frames: int = 1
  rows_per_batch: int = 32
  seed: int = 0
  data_dir: str = ".cache/data"
  cache_mb: int = 1024

  def __post_init__(self):
    for name in ("frames", "rows_per_batch"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
    for name in ("seed", "cache_mb"):
      if getattr(self, name) < 0:
        raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
    if not self.sources:
      raise ValueError("worlds, folders and tfds must not all be empty")

  @property
  def sources(self) -> tuple[MediaSource, ...]:
    """All of them."""
    return (*self.worlds, *self.folders, *self.tfds)


def open_sources(config: PixelsConfig, split: str) -> list[Examples]:
  """Opens a split of every source, preparing it where needed.

  Raises:
    UserError: a source cannot be used or is empty.
  """
  opened = [open_examples(s, split, data_dir=config.data_dir) for s in config.sources]
  for source, examples in zip(config.sources, opened):
    if not len(examples):
      raise UserError(f"{source.label} has no examples in its {split} split")
  return opened


class PixelBatches(RowBatches[UInt8[np.ndarray, "B T H W 3"], UInt8[np.ndarray, "T H W 3"]]):
  """Batches of the first `frames` frames of pictures and videos."""

  what = "pictures or videos"

  def __init__(self, sources: Sequence[Examples], weights: Sequence[float], *, frames: int, **rows):
    """See `RowBatches` for `rows`."""
    super().__init__(sources, weights, **rows)
    self._frames = frames

  def read(self, source: int, index: int) -> np.ndarray:
    """See `RowBatches`."""
    return first_frames(self._sources[source], index, self._frames)

  def size(self, example: np.ndarray) -> int:
    """See `RowBatches`."""
    return example.nbytes

  def row(self, example: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """All that is kept: nothing is drawn."""
    del rng
    return example

  def stack(self, rows: list[np.ndarray]) -> np.ndarray:
    """See `RowBatches`."""
    return np.stack(rows)


def first_frames(source: Examples, index: int, frames: int) -> UInt8[np.ndarray, "T H W 3"]:
  """The first frames of an example; a picture stands still, so that one tokenizer learns both.

  Raises:
    UserError: it is a video of fewer.
  """
  example = source[index]
  if 1 < example.frames < frames:
    raise UserError(
      f"{example.name} has {example.frames} frames, fewer than config.data.frames ({frames})"
    )
  media = example.media[:frames]
  return np.ascontiguousarray(np.broadcast_to(media, (frames, *media.shape[1:])))


def pixel_batches(config: PixelsConfig, *, host: int = 0, hosts: int = 1) -> PixelBatches:
  """Batches of the training splits of `config`."""
  return PixelBatches(
    open_sources(config, "train"),
    [source.weight for source in config.sources],
    frames=config.frames,
    rows_per_batch=config.rows_per_batch,
    seed=config.seed,
    cache_mb=config.cache_mb,
    host=host,
    hosts=hosts,
  )
