"""Batches of rows drawn at random for ever from sources mixed by weight: what every tokenizer's data share.

Row r follows from the config and r, whatever the number of hosts, as for text (`data/pipeline.py`): the
state is one integer, and hosts take contiguous parts of each batch. What was read stays in memory up to a
limit, because reading a record costs as much as a small tokenizer's step.
"""

import concurrent.futures
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from ernie_jax.errors import UserError

Batch, Example = TypeVar("Batch"), TypeVar("Example")


class RowBatches(Iterator[Batch], Generic[Batch, Example]):
  """An endless iterator of this host's part of each batch."""

  what: str  # the sources hold, for messages

  def __init__(
    self,
    sources: Sequence[Any],
    weights: Sequence[float],
    *,
    rows_per_batch: int,
    seed: int = 0,
    cache_mb: int = 1024,
    host: int = 0,
    hosts: int = 1,
  ):
    """Starts at row 0; `set_state` moves it.

    Args:
      sources: sequences of examples, each with a `fingerprint`.
      weights: of the sources.
      rows_per_batch: over all hosts.
      seed: of every draw.
      cache_mb: memory for examples that were read.
      host, hosts: whose part of each batch.

    Raises:
      UserError: the hosts cannot share a batch evenly.
    """
    if rows_per_batch % hosts:
      raise UserError(
        f"config key data.rows_per_batch must be a multiple of the {hosts} hosts,"
        f" got {rows_per_batch}"
      )
    self._sources, self._seed = sources, seed
    self._shares = np.asarray(weights, np.float64) / np.sum(weights)
    self._rows_per_batch, self._host, self._hosts = rows_per_batch, host, hosts
    self._fingerprints = [source.fingerprint for source in sources]
    self._kept: dict[tuple[int, int], Example] = {}
    self._room = cache_mb << 20
    self._next_row = 0
    self._thread = concurrent.futures.ThreadPoolExecutor(1)
    self._ahead: concurrent.futures.Future | None = None

  @abstractmethod
  def read(self, source: int, index: int) -> Example:
    """An example of a source, as it is kept."""

  @abstractmethod
  def size(self, example: Example) -> int:
    """Bytes that keeping it takes."""

  @abstractmethod
  def row(self, example: Example, rng: np.random.Generator) -> Example:
    """What of an example stands in a row."""

  @abstractmethod
  def stack(self, rows: list[Example]) -> Batch:
    """A batch."""

  def __next__(self) -> Batch:
    ahead = self._ahead or self._thread.submit(self._batch, self._next_row)
    batch = ahead.result()
    self._next_row += self._rows_per_batch
    self._ahead = self._thread.submit(self._batch, self._next_row)
    return batch

  def get_state(self) -> dict[str, Any]:
    """Where the next batch begins and in which sources, ready for JSON; the same on every host."""
    return {"next_row": self._next_row, "sources": self._fingerprints}

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes to a state that an iterator over the same sources gave.

    Raises:
      UserError: a source is not what it was.
    """
    if state.get("sources") != self._fingerprints:
      raise UserError(
        f"the {self.what} of config.data changed after the checkpoint was written; use another workdir,"
        " or the data as they were"
      )
    self._next_row, self._ahead = int(state["next_row"]), None

  def close(self) -> None:
    """Stops the reading thread."""
    self._thread.shutdown(cancel_futures=True)

  def _batch(self, start: int) -> Batch:
    each = self._rows_per_batch // self._hosts
    first = start + self._host * each
    return self.stack([self._row(first + i) for i in range(each)])

  def _row(self, row: int) -> Example:
    rng = np.random.default_rng([self._seed, row])
    source = int(rng.choice(len(self._sources), p=self._shares))
    index = int(rng.integers(len(self._sources[source])))
    kept = self._kept.get((source, index))
    if kept is None:
      kept = self.read(source, index)
      if self.size(kept) <= self._room:
        self._room -= self.size(kept)
        self._kept[source, index] = kept
    return self.row(kept, rng)
