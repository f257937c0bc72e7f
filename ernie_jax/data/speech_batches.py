"""Batches of sound with labels, for the codec (`row_batches` says how they are drawn).

Letters: B rows, S samples, F frames of `HOP` samples.

A piece starts at any frame of a clip; one clip in four is taken from its beginning, where a codec has no
past. A short clip is filled up with silence.
"""

import dataclasses
from collections.abc import Callable, Sequence

import flax.struct
import numpy as np
from jaxtyping import Array, Float, Int16, UInt8

from ernie_jax.data import speech_files
from ernie_jax.data.row_batches import RowBatches
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


def open_all(
  sources: Sequence[SpeechSource | SpeechFolder], split: str, *, data_dir: str
) -> list[SpeechExamples]:
  """Opens a split of every source.

  Raises:
    UserError: a source cannot be used or is empty.
  """
  opened = [open_speech(source, split, data_dir=data_dir) for source in sources]
  for source, examples in zip(sources, opened):
    if not len(examples):
      raise UserError(f"{source.label} has no examples in its {split} split")
  return opened


class SpeechBatches(RowBatches[SpeechBatch, SpeechExample]):
  """Batches of pieces of labelled clips."""

  what = "speech"

  def __init__(
    self,
    sources: Sequence[Sequence[SpeechExample]],
    config: SoundConfig,
    *,
    tracker: Tracker,
    host: int = 0,
    hosts: int = 1,
  ):
    """Starts at row 0; see `RowBatches`.

    Args:
      sources: as many as `config.sources`, each with a `fingerprint`.
      config: what a row is.
      tracker: finds the pitch where it is not known.
      host, hosts: whose part of each batch.

    Raises:
      UserError: the hosts cannot share a batch evenly.
    """
    super().__init__(
      sources,
      [source.weight for source in config.sources],
      rows_per_batch=config.rows_per_batch,
      seed=config.seed,
      cache_mb=config.cache_mb,
      host=host,
      hosts=hosts,
    )
    self._frames, self._tracker = config.code_frames * FRAMES_PER_CODE, tracker

  def read(self, source: int, index: int) -> SpeechExample:
    """See `RowBatches`."""
    return labelled(self._sources[source][index], self._tracker)

  def size(self, example: SpeechExample) -> int:
    """See `RowBatches`."""
    return example.waveform.nbytes

  def row(self, example: SpeechExample, rng: np.random.Generator) -> SpeechExample:
    """A piece from any frame on, or from the first."""
    spare = max(len(example.f0) - self._frames, 0)
    start = 0 if rng.random() < _FROM_THE_START else int(rng.integers(spare + 1))
    return piece(example, start, self._frames)

  def stack(self, rows: list[SpeechExample]) -> SpeechBatch:
    """See `RowBatches`."""
    return SpeechBatch(
      waveform=np.stack([r.waveform for r in rows]),
      phones=np.stack([r.phones for r in rows]),
      f0=np.stack([r.f0 for r in rows]),
    )


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
