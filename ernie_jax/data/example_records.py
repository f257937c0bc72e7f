"""Examples of any kind as TFDS records: the builder that writes them, and random access to a split.

A kind of example gives its features and both directions between an example and its record.
"""

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import tensorflow_datasets as tfds

from ernie_jax.data.builds import Build, Records

Example = TypeVar("Example")


def array(shape: tuple[int | None, ...], dtype: type) -> tfds.features.Tensor:
  """The feature of an array, kept as its bytes.

  By default TFDS keeps a list of 64-bit numbers, which of a video takes longer to write than the video to draw.
  """
  return tfds.features.Tensor(shape=shape, dtype=dtype, encoding=tfds.features.Encoding.BYTES)


class ExampleBuilder(tfds.core.GeneratorBasedBuilder, Generic[Example]):
  """A TFDS builder of examples; a subclass says which, from `self.builder_config.source`.

  The metadata of a build hold, for each split, a hash of its contents, the same wherever it is built.
  """

  VERSION = tfds.core.Version("1.1.0")
  # Where TFDS looks for lists of downloads and citations. There are none, and looking needs a package
  # that TFDS does not install.
  code_path = None

  @abstractmethod
  def splits(self) -> tuple[str, ...]:
    """The names of the splits."""

  @abstractmethod
  def examples(self, split: str) -> Iterator[Example]:
    """The examples of a split, in the order they are kept."""

  @abstractmethod
  def features(self) -> dict[str, Any]:
    """The TFDS features of a record."""

  @abstractmethod
  def to_record(self, example: Example) -> dict[str, Any]:
    """An example as those features take it."""

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=type(self).__doc__,
      features=tfds.features.FeaturesDict(self.features()),
      disable_shuffling=True,
      metadata=tfds.core.MetadataDict(),
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # nothing is downloaded
    return {split: self._generate_examples(split) for split in self.splits()}

  def _generate_examples(self, split: str):
    digest = hashlib.sha256()
    for key, example in enumerate(self.examples(split)):
      record = self.to_record(example)
      for value in record.values():
        part = value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode()
        digest.update(len(part).to_bytes(8, "little") + part)
      yield key, record
    self.info.metadata[split] = digest.hexdigest()[:16]


class RecordExamples(Sequence[Example]):
  """Random access to the examples of one split of a build by an `ExampleBuilder`."""

  what: str  # the build, for messages

  def __init__(self, build: Build, split: str):
    """Opens the split and checks that every shard is whole.

    Raises:
      UserError: a shard is missing, cut short or damaged at its end, or the build cannot be read.
    """
    self.build, self.split = build, split
    self._records = Records(build, split, what=self.what)
    self.fingerprint = str(self._records.metadata.get(split, build.key))

  @abstractmethod
  def from_record(self, record: dict[str, Any], *, name: str) -> Example:
    """The example of a record that was read; `name` is for messages."""

  @property
  def key(self) -> str:
    """Names these examples, for cache keys."""
    return f"{self.build.key}-{self.split}"

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> Example:
    return self.from_record(self._records[index], name=f"{self.build.key} {self.split}[{index}]")
