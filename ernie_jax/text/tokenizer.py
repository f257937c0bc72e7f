"""SentencePiece BPE over UTF-16BE bytes: any string in, ids out, the same string back.

Text is encoded as UTF-16BE and every byte becomes one symbol, so no character is unknown and every
script costs two bytes a character (ERNIE 5.0's choice). The text is first cut into words; a merge
never leaves a word, so no piece joins text, white space and text again. A word may begin with one
blank, as in GPT-2, which is SentencePiece's own sense of the white-space boundary: " return" may be one
piece, "return x" may not.

Ids below `RESERVED_IDS` are special tokens; text never produces them, however it is spelled, with one
exception: SURROGATE_BREAK stands between a lone high and a lone low surrogate, which would otherwise
come back as one character.
"""

import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path

import numpy as np
import sentencepiece
from jaxtyping import Int

from ernie_jax.errors import UserError
from ernie_jax.sequence.special import RESERVED_IDS, SpecialToken
from ernie_jax.text.merge import dropper, merge, never
from ernie_jax.whole_file import written_whole

MIN_VOCAB_SIZE = RESERVED_IDS + 256 + 1
DROPOUT_VARIANTS = 16  # segmentations kept for each word and rate

_MAGIC = b"ernie_jax tokenizer 1\n"
_FIRST_SYMBOL = 0x100  # byte b is written as the letter U+0100 + b: printable, never white space
_SYMBOLS = "".join(chr(_FIRST_SYMBOL + b) for b in range(256))
_TO_SYMBOLS = dict(enumerate(_SYMBOLS))
_WORD = re.compile(r" ?\w+| ?[^\w\s]+|\s+(?!\S)|\s+")
_SPLIT_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_BREAK = re.compile("(?<=[\ud800-\udbff])(?=[\udc00-\udfff])")
_BREAK_WORD = ""  # stands for SURROGATE_BREAK among the words of a text
_REPLACEMENT = "\ufffd"
_MAX_PIECE_SYMBOLS = 64  # 32 characters: SentencePiece's 16 would cut indentation and long names
_MAX_TRAINING_WORD = 256  # longer words are data, not language
_MAX_TRAINING_WORDS = 1_000_000
_CACHED_WORD_LENGTH = 64
_CACHE_ENTRIES = 400_000  # about 100 MB when full


class Tokenizer:
  """Text to ids and back; `train_tokenizer` and `Tokenizer.load` make one."""

  def __init__(self, model: bytes):
    """Wraps a serialised SentencePiece model whose pieces are spelled in byte symbols.

    Raises:
      ValueError: `model` is not such a model.
    """
    processor = sentencepiece.SentencePieceProcessor()
    try:
      processor.LoadFromSerializedProto(model)
    except (RuntimeError, TypeError) as e:
      raise ValueError("not a SentencePiece model") from e
    pieces = [processor.id_to_piece(i) for i in range(1, processor.get_piece_size())]
    if not set(_SYMBOLS) <= set(pieces) or not set("".join(pieces)) <= set(_SYMBOLS):
      raise ValueError("not a model over the 256 byte symbols")
    self._model = model
    self._processor = processor
    self._piece_bytes = [bytes(ord(c) - _FIRST_SYMBOL for c in p) for p in pieces]
    self._id = {p: RESERVED_IDS + i for i, p in enumerate(pieces)}
    self._rank = {p: i for p, i in self._id.items() if len(p) > 1}
    self._words = _Memo(self._encode_word)
    self._variants: dict[float, _Memo] = {}

  @property
  def vocab_size(self) -> int:
    """The number of ids, the reserved ones included."""
    return RESERVED_IDS + len(self._piece_bytes)

  @property
  def fingerprint(self) -> str:
    """16 hexadecimal digits that name this vocabulary, for cache keys."""
    return hashlib.sha256(self._model).hexdigest()[:16]

  def split(self, text: str) -> list[str]:
    """The words of `text`; joined they give it back. An empty word stands for SURROGATE_BREAK."""
    if not _SPLIT_PAIR.search(text):
      return _WORD.findall(text)
    words: list[str] = []
    for i, part in enumerate(_BREAK.split(text)):
      words += [_BREAK_WORD] * (i > 0)
      words += _WORD.findall(part)
    return words

  def encode_words(
    self, words: Sequence[str], *, dropout: float = 0.0, rng: np.random.Generator | None = None
  ) -> list[bytes]:
    """The ids of each word as the bytes of an int32 array.

    Bytes and not arrays because joining them is ten times as fast; `np.frombuffer(b"".join(...),
    np.int32)` gives the ids. With `dropout` > 0 every occurrence of a word draws one of its
    `DROPOUT_VARIANTS` segmentations with one number from `rng`, so equal generators give equal ids.
    """
    if dropout == 0:
      return list(map(self._words.__getitem__, words))
    if rng is None:
      raise ValueError("dropout needs a generator: pass rng=np.random.default_rng(...)")
    if dropout not in self._variants:
      self._variants[dropout] = _Memo(lambda key: self._encode_variant(*key, rate=dropout))
    variants = rng.integers(0, DROPOUT_VARIANTS, size=len(words)).tolist()
    return list(map(self._variants[dropout].__getitem__, zip(words, variants)))

  def encode(
    self, text: str, *, dropout: float = 0.0, rng: np.random.Generator | None = None
  ) -> Int[np.ndarray, "L"]:
    """The ids of `text`, int32; see `encode_words` for dropout. No BOS or EOS is added."""
    return join_ids(self.encode_words(self.split(text), dropout=dropout, rng=rng))

  def decode(self, ids: Iterable[int], *, show_special: bool = False) -> str:
    """The text of `ids`, whatever they are.

    Special tokens are dropped, or shown as `<|NAME|>`. An odd byte before a special token or the end,
    and an id outside the vocabulary, become U+FFFD. Lone surrogates come back as they went in, so print with
    `errors="replace"`.
    """
    stream = self.stream(show_special=show_special)
    return stream.push(ids) + stream.finish()

  def stream(self, *, show_special: bool = False) -> "TextStream":
    """An incremental `decode`, for text that is being generated."""
    return TextStream(self._piece_bytes, show_special=show_special)

  def save(self, path: str | os.PathLike) -> None:
    """Writes one file, complete or not at all."""
    with written_whole(path) as part:
      part.write_bytes(_MAGIC + hashlib.sha256(self._model).digest() + self._model)

  @classmethod
  def load(cls, path: str | os.PathLike) -> "Tokenizer":
    """Reads what `save` wrote.

    Raises:
      UserError: the file is missing, unreadable, or not a whole tokenizer.
    """
    try:
      data = Path(path).read_bytes()
    except OSError as e:
      raise UserError(f"tokenizer {path}: {e.strerror}") from e
    digest, model = data[len(_MAGIC) : len(_MAGIC) + 32], data[len(_MAGIC) + 32 :]
    if not data.startswith(_MAGIC):
      raise UserError(f"tokenizer {path}: not a tokenizer file of this version")
    if hashlib.sha256(model).digest() != digest:
      raise UserError(f"tokenizer {path}: the file is damaged or cut short")
    return cls(model)

  def _encode_word(self, word: str) -> bytes:
    if word == _BREAK_WORD:
      return _to_bytes([SpecialToken.SURROGATE_BREAK])
    ids = self._processor.encode(_to_symbols(word), out_type=int)
    return _to_bytes([RESERVED_IDS - 1 + i for i in ids])

  def _encode_variant(self, word: str, variant: int, *, rate: float) -> bytes:
    if word == _BREAK_WORD:
      return self._words[word]
    return _to_bytes(self._merge(word, dropper(word, variant=variant, rate=rate)))

  def _merge(self, word: str, skip: Callable[[], bool] = never) -> list[int]:
    """The ids of `word` by the Python merger; without `skip` the same as SentencePiece's."""
    return [self._id[p] for p in merge(_to_symbols(word), self._rank, skip)]


class TextStream:
  """Decodes ids as they come; what a character still lacks is held back until it is whole."""

  def __init__(self, piece_bytes: Sequence[bytes], *, show_special: bool):
    self._piece_bytes = piece_bytes
    self._show_special = show_special
    self._pending = b""

  def push(self, ids: Iterable[int]) -> str:
    """The text that is certain once `ids` have followed those pushed before."""
    text: list[str] = []
    pieces = [self._pending]
    for i in map(int, ids):
      if RESERVED_IDS <= i < RESERVED_IDS + len(self._piece_bytes):
        pieces.append(self._piece_bytes[i - RESERVED_IDS])
        continue
      text += [_decode_whole(b"".join(pieces)), self._show(i)]
      pieces = []
    data = b"".join(pieces)
    whole = len(data) // 2 * 2
    if whole and data[whole - 2] & 0xFC == 0xD8:  # a high surrogate may get its other half yet
      whole -= 2
    self._pending = data[whole:]
    text.append(data[:whole].decode("utf-16-be", "surrogatepass"))
    return "".join(text)

  def finish(self) -> str:
    """The text still held back; the stream is then as new."""
    text, self._pending = _decode_whole(self._pending), b""
    return text

  def _show(self, i: int) -> str:
    """What stands in the text for an id that is not a piece of text."""
    if not 0 <= i < RESERVED_IDS:
      return _REPLACEMENT
    if not self._show_special:
      return ""
    known = i in SpecialToken._value2member_map_
    return f"<|{SpecialToken(i).name if known else f'RESERVED_{i}'}|>"


class _Memo(dict):
  """A dictionary that computes what it lacks, and starts anew when full: its speed is that of dict."""

  def __init__(self, compute: Callable[[Hashable], bytes]):
    super().__init__()
    self._compute = compute

  def __missing__(self, key):
    value = self._compute(key)
    word = key if isinstance(key, str) else key[0]
    if len(word) <= _CACHED_WORD_LENGTH:
      if len(self) >= _CACHE_ENTRIES:
        self.clear()
      self[key] = value
    return value


def join_ids(encoded: Iterable[bytes]) -> Int[np.ndarray, "L"]:
  """The int32 ids of words that `encode_words` encoded, one after the other."""
  return np.frombuffer(b"".join(encoded), np.int32)


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> Tokenizer:
  """Trains a tokenizer of exactly `vocab_size` ids, the reserved ones included, on `texts`.

  The result depends on the words and their counts only, not on the order of the texts.

  Raises:
    UserError: `vocab_size` is below `MIN_VOCAB_SIZE`, or more than the text can fill.
  """
  if vocab_size < MIN_VOCAB_SIZE:
    raise UserError(f"vocab_size must be at least {MIN_VOCAB_SIZE}, got {vocab_size}")
  counts: Counter[str] = Counter()
  for text in texts:
    counts.update(w for w in _WORD.findall(text) if len(w) <= _MAX_TRAINING_WORD)
  if not counts:
    raise UserError("no text to train a tokenizer on")
  ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_MAX_TRAINING_WORDS]
  # Each byte is also a sentence of its own, so that all are in the vocabulary, whatever the text has.
  # SentencePiece compares coverage in float32: a symbol rarer than one in 10^7 would be dropped.
  floor = 1 + sum(2 * len(word) * count for word, count in ranked) // 1_000_000
  lines = [f"{_to_symbols(word)}\t{count}" for word, count in ranked]
  lines += [f"{symbol}\t{floor}" for symbol in _SYMBOLS]
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(lines),
      input_format="tsv",
      model_writer=model,
      model_type="bpe",
      vocab_size=vocab_size - RESERVED_IDS + 1,  # its id 0 is <unk>, which cannot occur
      character_coverage=1.0,
      max_sentence_length=8 * _MAX_TRAINING_WORD,
      max_sentencepiece_length=_MAX_PIECE_SYMBOLS,
      normalization_rule_name="identity",
      add_dummy_prefix=False,
      remove_extra_whitespaces=False,
      split_by_unicode_script=False,
      split_by_number=False,
      split_by_whitespace=False,
      unk_id=0,
      bos_id=-1,
      eos_id=-1,
      pad_id=-1,
      num_threads=1,
      minloglevel=2,
    )
  except RuntimeError as e:
    limit = re.search(r"value <= (\d+)", str(e))
    if not limit:
      raise
    most = int(limit[1]) + RESERVED_IDS - 1
    raise UserError(
      f"vocab_size {vocab_size} is too large for this text: at most {most} is possible"
    ) from e
  return Tokenizer(model.getvalue())


def _to_symbols(text: str) -> str:
  return text.encode("utf-16-be", "surrogatepass").decode("latin-1").translate(_TO_SYMBOLS)


def _to_bytes(ids: Sequence[int]) -> bytes:
  return np.asarray(ids, np.int32).tobytes()


def _decode_whole(data: bytes) -> str:
  """All of `data` as text, an odd last byte as U+FFFD."""
  whole = len(data) // 2 * 2
  text = data[:whole].decode("utf-16-be", "surrogatepass")
  return text + _REPLACEMENT * (len(data) > whole)
