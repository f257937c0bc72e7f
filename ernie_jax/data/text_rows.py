"""Packed rows of text with random access: row i of epoch e is found without reading what comes before.

The tokens of each piece are counted once. An epoch puts the pieces in an order drawn from (seed,
epoch), which makes one long stream of tokens, and cuts it every `capacity` tokens; a search in the
cumulative counts says which pieces a row needs. So the whole state of a reader is one row number, any
host can make any row, and packing wastes nothing and drops nothing.

BOS begins a file and EOS ends it. A row holds *chunks*: the part of a piece (or of neighbouring pieces of
one file, where files are in order) that falls inside it, each its own example with positions from 0.
Each token is an input once. Each is a target once, in the row where the token before it is an input,
except the first of a stretch of text with nothing before it: BOS, or a shuffled piece from mid-file.

With BPE-dropout the words that lie inside a row are segmented anew. That takes more tokens, so a row
plans for fewer than it can hold, by the expansion measured on a sample; from the end, words go back to
their canonical ids until the row fits. A row's first word is always canonical, so the target that the row
before has for it is right.
"""

import dataclasses
import functools
import hashlib
import zipfile
from pathlib import Path

import numpy as np

from ernie_jax.data.text_files import Piece, Pieces
from ernie_jax.sequence.row import Kind, Row, empty_row
from ernie_jax.sequence.special import SpecialToken
from ernie_jax.text.tokenizer import Tokenizer, join_ids
from ernie_jax.whole_file import written_whole

_SAMPLE_PIECES = 64  # enough for the expansion to about 1 %
_MARGIN = (
  1.02  # rows vary by a few percent around the expansion: our choice between padding and reverting
)
_BOS = np.int32(SpecialToken.BOS).tobytes()
_EOS = np.int32(SpecialToken.EOS).tobytes()


@dataclasses.dataclass(frozen=True)
class EncodedPiece:
  """A piece in units: its words, and BOS and EOS where it begins and ends a file.

  Attributes:
    words: the text of each unit, None for BOS and EOS.
    units: the canonical ids of each unit, as bytes of int32.
    starts: the token at which each unit starts, and at the end the number of tokens.
  """

  words: list[str | None]
  units: list[bytes]
  starts: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Epoch:
  """One order of the pieces: `starts[j]` is the stream position of the j-th, whose index is `order[j]`."""

  order: np.ndarray
  starts: np.ndarray
  rows: np.ndarray


class TextRows:
  """Rows of one split of a text source; see the module docstring.

  `len` is the number of rows in an epoch; rows[i] is defined for every i >= 0, row i % len of epoch i // len.
  """

  def __init__(
    self,
    pieces: Pieces,
    tokenizer: Tokenizer,
    *,
    length: int,
    seed: int = 0,
    shuffle: bool = True,
    bpe_dropout: float = 0.0,
  ):
    """Counts the tokens of every piece, or reads the counts kept beside the build.

    Args:
      pieces: what to read.
      tokenizer: encodes them.
      length: positions of a row.
      seed: of the orders and of dropout.
      shuffle: pieces and rows in a new random order each epoch; otherwise file order, always the same.
      bpe_dropout: rate; see `Tokenizer.encode_words`.
    """
    self.pieces, self.tokenizer, self.length = pieces, tokenizer, length
    self.shuffle, self.bpe_dropout, self._seed = shuffle, bpe_dropout, seed
    counts = _piece_counts(pieces, tokenizer)
    self._counts, self._first = counts["counts"], counts["first"]
    self.fingerprint = str(counts["fingerprint"])  # of the text, whenever and wherever it was built
    expansion = self._expansion() * _MARGIN if bpe_dropout > 0 else 1.0
    self.capacity = max(1, int(length / expansion))
    self.tokens = int(self._counts.sum())
    self._length_in_rows = -(-self.tokens // self.capacity)
    self._epoch = functools.lru_cache(maxsize=2)(self._draw_epoch)
    self.encoded = functools.lru_cache(maxsize=64)(self._encode_piece)  # by index of the piece

  def __len__(self) -> int:
    return self._length_in_rows

  def __getitem__(self, index: int) -> Row:
    number, index = divmod(index, len(self))
    epoch = self._epoch(number if self.shuffle else 0)
    row = int(epoch.rows[index])
    begin = row * self.capacity
    end = min(begin + self.capacity, self.tokens)
    words, units, chunks = self._units(epoch, begin, end)
    if self.bpe_dropout > 0:
      rng = np.random.default_rng([self._seed, number, row, 1])
      units = self._drop(words, units, rng=rng)
    return self._to_row(units, np.asarray(chunks), follower=self._follower(epoch, end))

  def file_order(self) -> tuple[np.ndarray, np.ndarray]:
    """Of an unshuffled source: the pieces in order, and the stream position of each and of the end."""
    if self.shuffle:
      raise ValueError("a shuffled source has no one order")
    epoch = self._epoch(0)
    return epoch.order, epoch.starts

  def _draw_epoch(self, number: int) -> _Epoch:
    if self.shuffle:
      rng = np.random.default_rng([self._seed, number, 0])
      order = rng.permutation(len(self._counts))
      rows = rng.permutation(len(self))  # else neighbouring rows of a batch share a piece
    else:
      order, rows = np.arange(len(self._counts)), np.arange(len(self))
    starts = np.concatenate([[0], np.cumsum(self._counts[order])])
    return _Epoch(order=order, starts=starts, rows=rows)

  def _encode_piece(self, index: int) -> EncodedPiece:
    return _encode(self.pieces[index], self.tokenizer)

  def _continues(self, epoch: _Epoch, j: int) -> bool:
    """Whether the j-th piece of the stream goes on with the text of the one before it."""
    return not self.shuffle and j > 0 and not self._first[epoch.order[j]]

  def _units(self, epoch: _Epoch, begin: int, end: int):
    """The units of stream[begin:end], None for the word of a unit that is cut, and each unit's chunk."""
    words: list[str | None] = []
    units: list[bytes] = []
    chunks: list[int] = []
    chunk = 0
    first = int(np.searchsorted(epoch.starts, begin, side="right")) - 1
    for j in range(first, len(epoch.order)):
      offset = int(epoch.starts[j])
      if offset >= end:
        break
      piece = self.encoded(int(epoch.order[j]))
      a, b = max(begin - offset, 0), min(end - offset, int(piece.starts[-1]))
      new_words, new_units = _clip(piece, a, b)
      chunk += not (units and self._continues(epoch, j))
      words += new_words
      units += new_units
      chunks += [chunk] * len(new_units)
    words[0] = None
    return words, units, chunks

  def _follower(self, epoch: _Epoch, end: int) -> int | None:
    """The token after stream[:end] where it goes on with the same text, else None."""
    if end >= self.tokens:
      return None
    j = int(np.searchsorted(epoch.starts, end, side="right")) - 1
    offset = end - int(epoch.starts[j])
    if offset == 0 and not self._continues(epoch, j):
      return None
    piece = self.encoded(int(epoch.order[j]))
    unit = int(np.searchsorted(piece.starts, offset, side="right")) - 1
    ids = np.frombuffer(piece.units[unit], np.int32)
    return int(ids[offset - int(piece.starts[unit])])

  def _drop(self, words: list[str | None], units: list[bytes], *, rng: np.random.Generator):
    """Segments words anew, the first ones, as many as the row has room for."""
    where = [i for i, word in enumerate(words) if word is not None]
    chosen = [words[i] for i in where]
    encoded = self.tokenizer.encode_words(chosen, dropout=self.bpe_dropout, rng=rng)
    growth = np.cumsum([len(e) - len(units[i]) for i, e in zip(where, encoded)]) // 4
    room = self.length - sum(map(len, units)) // 4
    fitting = np.flatnonzero(growth <= room)
    count = int(fitting[-1]) + 1 if len(fitting) else 0
    dropped = list(units)
    for i, e in zip(where[:count], encoded[:count]):
      dropped[i] = e
    return dropped

  def _to_row(self, units: list[bytes], chunks: np.ndarray, *, follower: int | None) -> Row:
    ids = join_ids(units)
    used = len(ids)
    example = np.repeat(chunks, [len(u) // 4 for u in units]).astype(np.int32)
    begins = np.searchsorted(
      example, example
    )  # chunks are numbered in order: the first of its number
    row = empty_row(self.length)
    row.kind[:used] = Kind.TEXT
    row.token[:used] = ids
    row.position[:used] = (np.arange(used) - begins)[:, None]
    row.group[:] = np.arange(self.length)
    row.example[:used] = example
    row.target[: used - 1] = np.where(example[1:] == example[:-1], ids[1:], 0)
    row.text_weight[: used - 1] = example[1:] == example[:-1]
    if follower is not None:
      row.target[used - 1] = follower
      row.text_weight[used - 1] = 1
    return row

  def _expansion(self) -> float:
    """Tokens with dropout for each canonical token, on a fixed sample of pieces."""
    sample = np.unique(np.linspace(0, len(self.pieces) - 1, _SAMPLE_PIECES).astype(int))
    rng = np.random.default_rng(0)
    plain = dropped = 0
    for index in sample.tolist():
      text = self.pieces[index].text
      plain += len(self.tokenizer.encode(text))
      dropped += len(self.tokenizer.encode(text, dropout=self.bpe_dropout, rng=rng))
    return max(1.0, dropped / plain)


def _encode(piece: Piece, tokenizer: Tokenizer) -> EncodedPiece:
  text_words = tokenizer.split(piece.text)
  words = [*[None] * piece.first, *text_words, *[None] * piece.last]
  units = [*[_BOS] * piece.first, *tokenizer.encode_words(text_words), *[_EOS] * piece.last]
  starts = np.concatenate([[0], np.cumsum([len(u) // 4 for u in units])])
  return EncodedPiece(words=words, units=units, starts=starts)


def _clip(piece: EncodedPiece, a: int, b: int) -> tuple[list[str | None], list[bytes]]:
  """The units of tokens [a, b) of a piece; a unit that is cut is no longer a word."""
  low = int(np.searchsorted(piece.starts, a, side="right")) - 1
  high = int(np.searchsorted(piece.starts, b, side="left"))
  words, units = piece.words[low:high], piece.units[low:high]
  before, after = a - int(piece.starts[low]), int(piece.starts[high]) - b
  if after:
    words[-1], units[-1] = None, units[-1][: -4 * after]
  if before:
    words[0], units[0] = None, units[0][4 * before :]
  return words, units


def _piece_counts(pieces: Pieces, tokenizer: Tokenizer) -> dict[str, np.ndarray]:
  """Tokens of every piece, whether it begins a file, and a hash of all text; kept beside the build."""
  name = f"{pieces.split}-tokens-{tokenizer.fingerprint}.npz"
  path = Path(pieces.build.directory).parent / name
  try:
    with np.load(path) as kept:
      counts = {k: kept[k] for k in ("counts", "first", "fingerprint")}
    if len(counts["counts"]) == len(pieces):
      return counts
  except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
    pass  # absent or damaged: count again
  counted, first = np.zeros(len(pieces), np.int64), np.zeros(len(pieces), np.bool_)
  digest = hashlib.sha256()
  for i in range(len(pieces)):
    piece = pieces[i]
    counted[i] = len(tokenizer.encode(piece.text)) + piece.first + piece.last
    first[i] = piece.first
    digest.update(repr((piece.text, piece.first, piece.last)).encode())
  counts = {"counts": counted, "first": first, "fingerprint": np.array(digest.hexdigest()[:16])}
  with written_whole(path) as part, open(part, "wb") as f:
    np.savez(f, **counts)
  return counts
