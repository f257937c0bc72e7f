"""Rows that are packed from examples drawn at random: row i follows from the config and i alone.

Row i draws examples (with replacement, so that no row depends on another) until some draws in a row no
longer fit. So the state of a reader is one row number, any host can make any row, and a resumed run sees
exactly the rows it would have seen.

Gotcha: what no longer fits is dropped, so short examples come a little more often than their weights say.
"""

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ernie_jax.errors import UserError
from ernie_jax.sequence import Item, MediaRow, RowBuilder

_MISSES = 4  # draws that do not fit before a row is called full: our choice
_ROWS_OF_AN_EPOCH = 1 << 20  # there are no epochs; a mixture wants a length


class DrawnRows:
  """Rows of one split; `len` is a formality: every row i >= 0 is defined.

  Attributes:
    form: a number that is raised when rows of equal sources and config change, so that no run goes on with others.
  """

  form = 1

  def __init__(self, sources: Sequence[Any], weights: Sequence[float], *, seed: int):
    """Reads nothing. `sources` have a `fingerprint` each; `weights` are theirs, `seed` of every draw."""
    self._sources, self._seed = sources, seed
    shares = np.array(weights, np.float64)
    self._shares = shares / shares.sum()
    names = "/".join([*(source.fingerprint for source in sources), str(self.form)])
    self.fingerprint = hashlib.sha256(names.encode()).hexdigest()[:16]

  @abstractmethod
  def builder(self) -> RowBuilder:
    """A builder of an empty row."""

  @abstractmethod
  def draw(self, source: int, index: int, rng: np.random.Generator) -> tuple[str, list[Item]]:
    """The name of an example, for messages, and the items of one of the tasks that it can serve."""

  @abstractmethod
  def advice(self) -> str:
    """What to change where an example does not fit into an empty row."""

  def __len__(self) -> int:
    return _ROWS_OF_AN_EPOCH

  def __getitem__(self, index: int) -> MediaRow:
    """Row `index`.

    Raises:
      UserError: an example does not fit into an empty row, or cannot be used.
    """
    rng = np.random.default_rng([self._seed, index])
    builder = self.builder()
    added = misses = 0
    while misses < _MISSES:
      source = int(rng.choice(len(self._sources), p=self._shares))
      name, items = self.draw(source, int(rng.integers(len(self._sources[source]))), rng)
      if builder.add(items):
        added += 1
        continue
      misses += 1
      if not added:
        raise UserError(f"{name} does not fit into a row: {self.advice()}")
    return builder.finish()


def choose_task(
  weights: Mapping[str, float], can: Mapping[str, bool], rng: np.random.Generator, *, default: str
) -> str:
  """A task of those that an example can serve, by weight; `default` where these have none."""
  names = [name for name in can if can[name] and weights[name] > 0] or [default]
  shares = np.array([weights[name] or 1.0 for name in names])
  return names[int(rng.choice(len(names), p=shares / shares.sum()))]
