"""Batches of sound with labels, for the codec: sources mixed by weight, pieces drawn at random for ever.

Letters: B rows, S samples, F frames of `HOP` samples.

Row r follows from the config and r, whatever the number of hosts, as for pixels (`media_batches`). A piece
starts at any frame of a clip; one clip in four is taken from its beginning, where a codec has no past. A
short clip is filled up with silence.
"""

import concurrent.futures
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.struct
import numpy as np
from jaxtyping import Array, Float, Int16, UInt8

from ernie_jax.data import speech_files
from ernie_jax.data.speech_example import SpeechExample
from ernie_jax.data.speech_files import SpeechFolder
from ernie_jax.data.speech_records import SpeechExamples
from ernie_jax.data.world import speech_set
from ernie_jax.data.world.speech import FRAMES_PER_CODE, HOP
from ernie_jax.data.world.speech_set import SpeechSource
from ernie_jax.errors import UserError

UNKNOWN = 255  # label of a frame of which no phone is known
_FROM_THE_START = 0.25

Tracker = Callable[[Float[np.ndarray, "S"]], Float[np.ndarray, "F"]]


@dataclasses.dataclass(frozen=True)
class SoundConfig:
  """Which speech, and how much at a time.

  Attributes:
    worlds, folders: the sources, each with its weight.
    code_frames: codec frames of 80 ms in a row.
    rows_per_batch: pieces of a batch over all hosts.
    seed: of the order.
    data_dir: where prepared records are kept; shared by runs.
    cache_mb: memory in which what was read is kept.
  """

  worlds: tuple[SpeechSource, ...] = (SpeechSource(),)
  folders: tuple[SpeechFolder, ...] = ()
  code_frames: int = 16
  rows_per_batch: int = 16
  seed: int = 0
  data_dir: str = ".cache/data"
  cache_mb: int = 1024

  def __post_init__(self):
    for name in ("code_frames", "rows_per_batch"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
    for name in ("seed", "cache_mb"):
      if getattr(self, name) < 0:
        raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
    if not self.sources:
      raise ValueError("worlds and folders must not both be empty")

  @property
  def sources(self) -> tuple[SpeechSource | SpeechFolder, ...]:
    """All of them."""
    return (*self.worlds, *self.folders)


@flax.struct.dataclass
class SpeechBatch:
  """Pieces of clips.

  Attributes:
    waveform: int16 [B, S].
    phones: uint8 [B, F], `UNKNOWN` where not known.
    f0: float32 [B, F] in Hz, 0 without voice.
  """

  waveform: Int16[Array, "B S"]
  phones: UInt8[Array, "B F"]
  f0: Float[Array, "B F"]


def open_speech(
  source: SpeechSource | SpeechFolder, split: str, *, data_dir: str
) -> SpeechExamples:
  """Opens a split, after preparing the source under `data_dir` where that is needed.

  Raises:
    UserError: the source cannot be used.
    ValueError: the source has no such split.
  """
  module = speech_set if isinstance(source, SpeechSource) else speech_files
  if split not in module.SPLITS:
    raise ValueError(f"{source.label} has the splits {', '.join(module.SPLITS)}, not {split}")
  return SpeechExamples(module.prepare(source, data_dir), split)


def open_all(config: SoundConfig, split: str) -> list[SpeechExamples]:
  """Opens a split of every source.

  Raises:
    UserError: a source cannot be used or is empty.
  """
  opened = [open_speech(s, split, data_dir=config.data_dir) for s in config.sources]
  for source, examples in zip(config.sources, opened):
    if not len(examples):
      raise UserError(f"{source.label} has no examples in its {split} split")
  return opened


class SpeechBatches(Iterator[SpeechBatch]):
  """An endless iterator of this host's part of each batch."""

  def __init__(
    self,
    sources: Sequence[Sequence[SpeechExample]],
    config: SoundConfig,
    *,
    tracker: Tracker,
    host: int = 0,
    hosts: int = 1,
  ):
    """Starts at row 0; `set_state` moves it.

    Args:
      sources: as many as `config.sources`, each with a `fingerprint`.
      config: what a row is.
      tracker: finds the pitch where it is not known.
      host, hosts: whose part of each batch.

    Raises:
      UserError: the hosts cannot share a batch evenly.
    """
    if config.rows_per_batch % hosts:
      raise UserError(
        f"config.data.rows_per_batch must be a multiple of the {hosts} hosts,"
        f" got {config.rows_per_batch}"
      )
    self._sources, self._config, self._tracker = sources, config, tracker
    weights = np.array([s.weight for s in config.sources], np.float64)
    self._shares = weights / weights.sum()
    self._host, self._hosts = host, hosts
    self._names = [source.fingerprint for source in sources]
    self._kept: dict[tuple[int, int], SpeechExample] = {}
    self._room = config.cache_mb << 20
    self._next_row = 0
    self._thread = concurrent.futures.ThreadPoolExecutor(1)
    self._ahead: concurrent.futures.Future | None = None

  def __next__(self) -> SpeechBatch:
    ahead = self._ahead or self._thread.submit(self._batch, self._next_row)
    batch = ahead.result()
    self._next_row += self._config.rows_per_batch
    self._ahead = self._thread.submit(self._batch, self._next_row)
    return batch

  def get_state(self) -> dict[str, Any]:
    """Where the next batch begins and in which speech, ready for JSON; the same on every host."""
    return {"next_row": self._next_row, "speech": self._names}

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes to a state that an iterator over the same sources gave.

    Raises:
      UserError: a source is not what it was.
    """
    if state["speech"] != self._names:
      raise UserError(
        "the speech of config.data has changed since the checkpoint was written; use another workdir,"
        " or the speech as it was"
      )
    self._next_row, self._ahead = int(state["next_row"]), None

  def close(self) -> None:
    """Stops the reading thread."""
    self._thread.shutdown(cancel_futures=True)

  def _batch(self, start: int) -> SpeechBatch:
    each = self._config.rows_per_batch // self._hosts
    first = start + self._host * each
    rows = [self._row(first + i) for i in range(each)]
    return SpeechBatch(
      waveform=np.stack([r.waveform for r in rows]),
      phones=np.stack([r.phones for r in rows]),
      f0=np.stack([r.f0 for r in rows]),
    )

  def _row(self, row: int) -> SpeechExample:
    rng = np.random.default_rng([self._config.seed, row])
    source = int(rng.choice(len(self._sources), p=self._shares))
    example = self._read(source, int(rng.integers(len(self._sources[source]))))
    frames = self._config.code_frames * FRAMES_PER_CODE
    spare = max(len(example.f0) - frames, 0)
    start = 0 if rng.random() < _FROM_THE_START else int(rng.integers(spare + 1))
    return piece(example, start, frames)

  def _read(self, source: int, index: int) -> SpeechExample:
    kept = self._kept.get((source, index))
    if kept is None:
      kept = labelled(self._sources[source][index], self._tracker)
      if kept.waveform.nbytes <= self._room:
        self._room -= kept.waveform.nbytes
        self._kept[source, index] = kept
    return kept


def labelled(example: SpeechExample, tracker: Tracker) -> SpeechExample:
  """The clip filled up to whole frames, with labels for each: what is not known is `UNKNOWN`, or tracked."""
  frames = -(-len(example.waveform) // HOP)
  waveform = np.pad(example.waveform, (0, frames * HOP - len(example.waveform)))
  phones, f0 = example.phones, example.f0
  if not len(phones):
    phones = np.full(frames, UNKNOWN, np.uint8)
  if not len(f0):
    f0 = tracker(waveform.astype(np.float32) / 32768)
  return dataclasses.replace(example, waveform=waveform, phones=phones, f0=f0)


def piece(example: SpeechExample, start: int, frames: int) -> SpeechExample:
  """So many frames of a labelled clip from frame `start` on; beyond its end silence of unknown phones."""
  cut = lambda x, unit: x[start * unit : (start + frames) * unit]
  fill = lambda x, unit, value: np.pad(x, (0, frames * unit - len(x)), constant_values=value)
  return dataclasses.replace(
    example,
    waveform=fill(cut(example.waveform, HOP), HOP, 0),
    phones=fill(cut(example.phones, 1), 1, UNKNOWN),
    f0=fill(cut(example.f0, 1), 1, 0),
  )
