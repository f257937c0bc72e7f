"""From a data config to batches: each host's share of a global sequence of rows, prefetched by Grain.

The global sequence is fixed by the config: row r is row r of the mixture, whatever the number of hosts.
A batch takes the next `rows_per_batch` rows, and host h the h-th contiguous part of them, so that hosts'
batches one after the other are the one-host batch. The state is the number of rows consumed by all hosts
together: one integer, valid for any number of hosts and any batch size. Beside it stand the fingerprints
of the sources, because a row number means nothing once the text is another.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import grain

from ernie_jax.data.held_out import HeldOut, held_out
from ernie_jax.data.media_rows import MediaDataConfig, MediaRows, media_texts, open_media
from ernie_jax.data.mixture import ENDLESS, RowSource, mix, stack_rows
from ernie_jax.data.speech_batches import open_all
from ernie_jax.data.speech_codes import Coder
from ernie_jax.data.speech_rows import SpeechDataConfig, SpeechRows, open_coded, speech_texts
from ernie_jax.data.spoken_scenes import open_spoken
from ernie_jax.data.text_files import Pieces, TextSource, prepare
from ernie_jax.data.text_rows import TextRows
from ernie_jax.errors import UserError
from ernie_jax.sequence import NO_SLOTS, MediaRow, MediaShapes, RowBuilder, SlotsConfig, SoundShape
from ernie_jax.sequence.row import Row
from ernie_jax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """What to train on.

  Attributes:
    row_length: positions of a row (L).
    rows_per_batch: rows of a batch over all hosts.
    seed: of the order of the data and of dropout.
    bpe_dropout: rate at which merges are dropped in training text (Provilkov et al., 2020): of files, and of what is
      given to draw, answer or say, not of what is to be told.
    sources: text sources, each with its weight; possibly none where there are media or speech.
    media: pictures and videos; without sources, there are none.
    speech: likewise.
    data_dir: where prepared records are kept; shared by runs.
    prefetch: batches made ahead.
    threads: threads that make them. Encoding holds the interpreter lock, so more only hide file latency.
  """

  row_length: int = 512
  rows_per_batch: int = 16
  seed: int = 0
  bpe_dropout: float = 0.0
  sources: tuple[TextSource, ...] = (TextSource(),)
  media: MediaDataConfig = MediaDataConfig()
  speech: SpeechDataConfig = SpeechDataConfig()
  data_dir: str = ".cache/data"
  prefetch: int = 4
  threads: int = 2

  def __post_init__(self):
    for name in ("row_length", "rows_per_batch", "prefetch", "threads"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
    if self.seed < 0:
      raise ValueError(f"seed must not be negative, got {self.seed}")
    if not 0 <= self.bpe_dropout <= 1:
      raise ValueError(f"bpe_dropout must be in [0, 1], got {self.bpe_dropout}")
    if not self.sources and not self.media.sources and not self.speech.sources:
      raise ValueError("sources must not be empty")

  @property
  def has_sound(self) -> bool:
    """Whether anything is heard or said in its rows."""
    return bool(self.speech.sources or self.media.spoken)


@dataclasses.dataclass(frozen=True)
class _HostBatches:
  """The rows of one host from global row `start` on, in its order."""

  rows: grain.MapDataset
  start: int
  per_batch: int
  per_host: int
  host: int

  def __len__(self) -> int:
    return ENDLESS // self.per_batch

  def __getitem__(self, index: int) -> Row | MediaRow:
    """The host's part of the index-th batch after `start`."""
    first = self.start + index * self.per_batch + self.host * self.per_host
    return stack_rows([self.rows[first + i] for i in range(self.per_host)])


class Pipeline(Iterator[Row | MediaRow]):
  """An endless iterator of batches [rows of this host, L] over sources of rows."""

  def __init__(
    self,
    sources: Sequence[RowSource],
    weights: Sequence[float],
    *,
    rows_per_batch: int,
    host: int = 0,
    hosts: int = 1,
    prefetch: int = 4,
    threads: int = 2,
    names: Sequence[str] | None = None,
  ):
    """Starts at row 0; `set_state` moves it. `names` are the sources' config keys, for messages.

    Raises:
      UserError: the hosts cannot share a batch evenly.
    """
    if rows_per_batch % hosts:
      raise UserError(
        f"config key data.rows_per_batch must be a multiple of the {hosts} hosts, got {rows_per_batch}"
      )
    self._rows = mix(sources, weights)
    self._text = [source.fingerprint for source in sources]
    self._names = names or [f"config.data.sources[{i}]" for i in range(len(sources))]
    self._rows_per_batch, self._host, self._hosts = rows_per_batch, host, hosts
    self._options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
    self._next_row = 0
    self._iterator = None

  def __iter__(self) -> "Pipeline":
    return self

  def __next__(self) -> Row | MediaRow:
    if self._iterator is None:
      self._iterator = iter(self._batches().to_iter_dataset(self._options))
    try:
      batch = next(self._iterator)
    except UserError as e:  # to whose one line Grain adds others, about its traceback
      raise UserError(str(e).partition("\n")[0]) from e
    self._next_row += self._rows_per_batch
    return batch

  def get_state(self) -> dict[str, Any]:
    """Where the next batch begins and in which text, ready for JSON; the same on every host."""
    return {"next_row": self._next_row, "text": self._text}

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes to a state that any pipeline over the same sources and weights gave.

    Raises:
      UserError: the text of a source is not what it was.
    """
    for name, old, new in zip(self._names, state["text"], self._text, strict=True):
      if old != new:
        what = "content" if name.endswith(("media", "speech")) else "text"
        raise UserError(
          f"the {what} of {name} has changed since the checkpoint was written, so its"
          f" place in the data is lost; use another workdir, or the {what} as it was"
        )
    self.close()
    self._next_row = int(state["next_row"])

  def close(self) -> None:
    """Stops the prefetching threads; iterating on starts them again."""
    if self._iterator is not None:
      self._iterator.close()
      self._iterator = None

  def _batches(self) -> grain.MapDataset:
    return grain.MapDataset.source(
      _HostBatches(
        rows=self._rows,
        start=self._next_row,
        per_batch=self._rows_per_batch,
        per_host=self._rows_per_batch // self._hosts,
        host=self._host,
      )
    )


@dataclasses.dataclass(frozen=True)
class _WithSlots:
  """Rows of text as rows whose media slots are empty and that are silent, so that all rows of a batch have one form."""

  rows: RowSource
  empty: MediaRow

  @property
  def fingerprint(self) -> str:
    return self.rows.fingerprint

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, index: int) -> MediaRow:
    return self.empty.replace(row=self.rows[index])


def training_pipeline(
  config: DataConfig,
  tokenizer: Tokenizer,
  *,
  shapes: MediaShapes | None = None,
  coder: Coder | None = None,
  host: int = 0,
  hosts: int = 1,
) -> Pipeline:
  """Prepares the sources of `config` where needed and opens their training splits.

  Args:
    config: text, media and speech.
    tokenizer: of the text.
    shapes: how media become positions; not needed without media.
    coder: the codec; not needed without speech, alone or about media.
    host, hosts: which part of each batch to make.
  """
  sources = [
    TextRows(
      Pieces(prepare(source, config.data_dir), "train"),
      tokenizer,
      length=config.row_length,
      seed=config.seed,
      bpe_dropout=config.bpe_dropout if source.bpe_dropout is None else source.bpe_dropout,
    )
    for source in config.sources
  ]
  weights = [source.weight for source in config.sources]
  names = [f"config.data.sources[{i}]" for i in range(len(sources))]
  slots, sound = _form(config, coder)
  if config.media.sources or config.speech.sources:
    empty = RowBuilder(shapes, slots, length=config.row_length, sound=sound).finish()
    sources = [_WithSlots(rows, empty) for rows in sources]
  if config.media.sources:
    sources.append(
      MediaRows(
        open_media(config.media, "train", data_dir=config.data_dir),
        tokenizer,
        shapes,
        config.media,
        length=config.row_length,
        seed=config.seed,
        bpe_dropout=config.bpe_dropout,
        sound=sound,
        spoken=open_spoken(config.media.spoken, "train", coder, data_dir=config.data_dir),
      )
    )
    weights.append(config.media.weight)
    names.append("config.data.media")
  if config.speech.sources:
    sources.append(
      SpeechRows(
        open_coded(config.speech, "train", coder, data_dir=config.data_dir),
        tokenizer,
        sound,
        config.speech,
        length=config.row_length,
        seed=config.seed,
        bpe_dropout=config.bpe_dropout,
        shapes=shapes,
        slots=slots,
      )
    )
    weights.append(config.speech.weight)
    names.append("config.data.speech")
  return Pipeline(
    sources,
    weights,
    rows_per_batch=config.rows_per_batch,
    host=host,
    hosts=hosts,
    prefetch=config.prefetch,
    threads=config.threads,
    names=names,
  )


def _form(config: DataConfig, coder: Coder | None) -> tuple[SlotsConfig, SoundShape | None]:
  """What every row of a mixture has, so that all of them have one form: slots, and the shape of sound."""
  slots = config.media.slots if config.media.sources else NO_SLOTS
  return slots, coder.shape if config.has_sound else None


def held_out_media(
  config: DataConfig,
  tokenizer: Tokenizer,
  shapes: MediaShapes,
  *,
  rows: int,
  split: str = "validation",
  coder: Coder | None = None,
) -> MediaRow | None:
  """Rows of a split of the media that training does not see, nothing left out; None without media.

  `coder`: the codec; not needed where nothing is said about them.
  """
  if not config.media.sources:
    return None
  spoken = open_spoken(config.media.spoken, split, coder, data_dir=config.data_dir)
  made = MediaRows(
    open_media(config.media, split, data_dir=config.data_dir),
    tokenizer,
    shapes,
    config.media,
    length=config.row_length,
    regularise=False,
    sound=coder.shape if spoken else None,
    spoken=spoken,
  )
  return stack_rows([made[i] for i in range(rows)])


def held_out_speech(
  config: DataConfig,
  tokenizer: Tokenizer,
  coder: Coder,
  *,
  rows: int,
  split: str = "validation",
) -> MediaRow | None:
  """Rows of a split of the speech that training does not hear; None without speech."""
  if not config.speech.sources:
    return None
  made = SpeechRows(
    open_coded(config.speech, split, coder, data_dir=config.data_dir),
    tokenizer,
    coder.shape,
    config.speech,
    length=config.row_length,
  )
  return stack_rows([made[i] for i in range(rows)])


def held_out_sets(config: DataConfig, tokenizer: Tokenizer, *, max_rows: int) -> list[HeldOut]:
  """The held-out text of each source of `config`, at most `max_rows` rows each."""
  return [
    held_out(
      TextRows(
        Pieces(prepare(source, config.data_dir), "validation"),
        tokenizer,
        length=config.row_length,
        shuffle=False,
      ),
      max_rows=max_rows,
    )
    for source in config.sources
  ]


def training_texts(config: DataConfig, *, max_chars: int = 32_000_000) -> Iterator[str]:
  """Training text of `config` to train a tokenizer on: an equal share of each source."""
  media = open_media(config.media, "train", data_dir=config.data_dir)
  speech = open_all(config.speech.sources, "train", data_dir=config.data_dir)
  share = -(-max_chars // (len(config.sources) + len(media) + len(speech)))
  for source in config.sources:
    pieces = Pieces(prepare(source, config.data_dir), "train")
    left = share
    for piece in pieces:
      yield piece.text
      left -= len(piece.text)
      if left <= 0:
        break
  yield from media_texts(media, max_chars=share * len(media))
  yield from speech_texts(speech, max_chars=share * len(speech))
