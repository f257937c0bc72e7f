"""Batches of pixels alone, for the visual tokenizer: sources mixed by weight, drawn at random for ever.

Row r follows from the config and r, whatever the number of hosts, as for text (`data/pipeline.py`): the
state is one integer, and hosts take contiguous parts of each batch. What was read stays in memory up to a
limit, because reading a record costs as much as a small tokenizer's step.
"""

import concurrent.futures
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ernie_jax.data.media_files import MediaFolder
from ernie_jax.data.media_sources import Examples, MediaSource, open_examples
from ernie_jax.data.media_tfds import MediaTfds
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


class PixelBatches(Iterator[UInt8[np.ndarray, "B T H W 3"]]):
  """An endless iterator of this host's part of each batch."""

  def __init__(
    self,
    sources: Sequence[Examples],
    weights: Sequence[float],
    *,
    frames: int,
    rows_per_batch: int,
    seed: int = 0,
    cache_mb: int = 1024,
    host: int = 0,
    hosts: int = 1,
  ):
    """Starts at row 0; `set_state` moves it.

    Raises:
      UserError: the hosts cannot share a batch evenly.
    """
    if rows_per_batch % hosts:
      raise UserError(
        f"config key data.rows_per_batch must be a multiple of the {hosts} hosts,"
        f" got {rows_per_batch}"
      )
    self._sources, self._frames, self._seed = sources, frames, seed
    self._shares = np.asarray(weights, np.float64) / np.sum(weights)
    self._rows_per_batch, self._host, self._hosts = rows_per_batch, host, hosts
    self._media = [source.fingerprint for source in sources]
    self._kept: dict[tuple[int, int], np.ndarray] = {}
    self._room = cache_mb << 20
    self._next_row = 0
    self._thread = concurrent.futures.ThreadPoolExecutor(1)
    self._ahead: concurrent.futures.Future | None = None

  def __next__(self) -> UInt8[np.ndarray, "B T H W 3"]:
    ahead = self._ahead or self._thread.submit(self._batch, self._next_row)
    batch = ahead.result()
    self._next_row += self._rows_per_batch
    self._ahead = self._thread.submit(self._batch, self._next_row)
    return batch

  def get_state(self) -> dict[str, Any]:
    """Where the next batch begins and in which media, ready for JSON; the same on every host."""
    return {"next_row": self._next_row, "media": self._media}

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes to a state that an iterator over the same sources gave.

    Raises:
      UserError: a source is not what it was.
    """
    if state["media"] != self._media:
      raise UserError(
        "the pictures or videos of config.data have changed since the checkpoint was written; use"
        " another workdir, or the media as they were"
      )
    self._next_row, self._ahead = int(state["next_row"]), None

  def close(self) -> None:
    """Stops the reading thread."""
    self._thread.shutdown(cancel_futures=True)

  def _batch(self, start: int) -> np.ndarray:
    each = self._rows_per_batch // self._hosts
    first = start + self._host * each
    return np.stack([self._row(first + i) for i in range(each)])

  def _row(self, row: int) -> np.ndarray:
    rng = np.random.default_rng([self._seed, row])
    source = int(rng.choice(len(self._sources), p=self._shares))
    index = int(rng.integers(len(self._sources[source])))
    kept = self._kept.get((source, index))
    if kept is not None:
      return kept
    media = first_frames(self._sources[source], index, self._frames)
    if media.nbytes <= self._room:
      self._room -= media.nbytes
      self._kept[source, index] = media
    return media


def first_frames(source: Examples, index: int, frames: int) -> UInt8[np.ndarray, "T H W 3"]:
  """The first frames of an example.

  Raises:
    UserError: it has fewer.
  """
  example = source[index]
  if example.frames < frames:
    raise UserError(
      f"{example.name} has {example.frames} frame(s), fewer than config.data.frames ({frames})"
    )
  return np.ascontiguousarray(example.media[:frames])


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
