"""Speech examples as TFDS records, written by every builder of speech and read back here."""

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from ernie_jax.data.builds import Build, Records
from ernie_jax.data.speech_example import SpeechExample


class SpeechBuilder(tfds.core.GeneratorBasedBuilder):
  """A TFDS builder of speech; a subclass says which, from `self.builder_config.source`.

  The metadata of a build hold, for each split, a hash of its contents, the same wherever it is built.
  """

  VERSION = tfds.core.Version("1.0.0")
  # Where TFDS looks for lists of downloads and citations. There are none, and looking needs a package
  # that TFDS does not install.
  code_path = None

  @abstractmethod
  def splits(self) -> tuple[str, ...]:
    """The names of the splits."""

  @abstractmethod
  def examples(self, split: str) -> Iterator[SpeechExample]:
    """The examples of a split, in the order they are kept."""

  def _info(self) -> tfds.core.DatasetInfo:
    tensor = lambda dtype: tfds.features.Tensor(shape=(None,), dtype=dtype)
    return tfds.core.DatasetInfo(
      builder=self,
      description=type(self).__doc__,
      features=tfds.features.FeaturesDict(
        {
          "waveform": tensor(np.int16),
          "transcript": tfds.features.Text(),
          "speaker": tfds.features.Text(),
          "phones": tensor(np.uint8),
          "f0": tensor(np.float32),
          "utterance": tfds.features.Text(),
        }
      ),
      disable_shuffling=True,
      metadata=tfds.core.MetadataDict(),
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # nothing is downloaded
    return {split: self._generate_examples(split) for split in self.splits()}

  def _generate_examples(self, split: str):
    digest = hashlib.sha256()
    for key, example in enumerate(self.examples(split)):
      record: dict[str, Any] = {name: getattr(example, name) for name in self.info.features}
      for value in record.values():
        part = value.encode() if isinstance(value, str) else value.tobytes()
        digest.update(len(part).to_bytes(8, "little") + part)
      yield key, record
    self.info.metadata[split] = digest.hexdigest()[:16]


class SpeechExamples(Sequence[SpeechExample]):
  """Random access to the examples of one split of a build by a `SpeechBuilder`."""

  def __init__(self, build: Build, split: str):
    """Opens the split and checks that every shard is whole.

    Raises:
      UserError: a shard is missing, cut short or damaged at its end, or the build cannot be read.
    """
    self.build, self.split = build, split
    self._records = Records(build, split, what="speech build")
    self.fingerprint = str(self._records.metadata.get(split, build.key))

  @property
  def key(self) -> str:
    """Names these examples, for cache keys."""
    return f"{self.build.key}-{self.split}"

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> SpeechExample:
    record = self._records[index]
    texts = {k: record[k].decode("utf-8") for k in ("transcript", "speaker", "utterance")}
    arrays = {k: record[k] for k in ("waveform", "phones", "f0")}
    return SpeechExample(**arrays, **texts, name=f"{self.key}[{index}]")
