"""Media examples as TFDS records, written by every builder of pictures and videos and read back here."""

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from ernie_jax.data.builds import Build, Records
from ernie_jax.data.media_example import Document, MediaExample, Question


class MediaBuilder(tfds.core.GeneratorBasedBuilder):
  """A TFDS builder of media examples; a subclass says which, from `self.builder_config.source`.

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
  def examples(self, split: str) -> Iterator[MediaExample]:
    """The examples of a split, in the order they are kept."""

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=type(self).__doc__,
      features=_features(self.builder_config.source.side),
      disable_shuffling=True,
      metadata=tfds.core.MetadataDict(),
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # nothing is downloaded
    return {split: self._generate_examples(split) for split in self.splits()}

  def _generate_examples(self, split: str):
    digest = hashlib.sha256()
    for key, example in enumerate(self.examples(split)):
      record = _to_record(example)
      digest.update(example.media.data)
      digest.update(repr({k: v for k, v in record.items() if k != "media"}).encode())
      yield key, record
    self.info.metadata[split] = digest.hexdigest()[:16]


class MediaExamples(Sequence[MediaExample]):
  """Random access to the examples of one split of a build by a `MediaBuilder`."""

  def __init__(self, build: Build, split: str):
    """Opens the split and checks that every shard is whole.

    Raises:
      UserError: a shard is missing, cut short or damaged at its end, or the build cannot be read.
    """
    self.build, self.split = build, split
    self._records = Records(build, split, what="media build")
    self.fingerprint = str(self._records.metadata.get(split, build.key))

  @property
  def key(self) -> str:
    """Names these examples, for cache keys."""
    return f"{self.build.key}-{self.split}"

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> MediaExample:
    return _from_record(self._records[index], name=f"{self.build.key} {self.split}[{index}]")


def _features(side: int) -> tfds.features.FeaturesDict:
  text = tfds.features.Text
  media = lambda: tfds.features.Tensor(shape=(None, side, side, 3), dtype=np.uint8)
  return tfds.features.FeaturesDict(
    {
      "media": media(),
      "scene": text(),
      "captions": tfds.features.Sequence(text()),
      "questions": tfds.features.Sequence({"question": text(), "answer": text(), "kind": text()}),
      # All three are empty where there is no document.
      "document_texts": tfds.features.Sequence(text()),
      "document_pictures": media(),
      "document_scenes": tfds.features.Sequence(text()),
    }
  )


def _to_record(example: MediaExample) -> dict[str, Any]:
  document, side = example.document, example.media.shape[1]
  return {
    "media": example.media,
    "scene": example.scene,
    "captions": list(example.captions),
    "questions": [
      {"question": q.question, "answer": q.answer, "kind": q.kind} for q in example.questions
    ],
    "document_texts": list(document.texts) if document else [],
    "document_pictures": document.pictures if document else np.zeros((0, side, side, 3), np.uint8),
    "document_scenes": list(document.scenes) if document else [],
  }


def _from_record(record: dict[str, Any], *, name: str) -> MediaExample:
  decode = lambda texts: tuple(text.decode("utf-8") for text in texts)
  asked = record["questions"]
  parts = zip(decode(asked["question"]), decode(asked["answer"]), decode(asked["kind"]))
  document = None
  if len(record["document_texts"]):
    document = Document(
      texts=decode(record["document_texts"]),
      pictures=record["document_pictures"],
      scenes=decode(record["document_scenes"]),
    )
  return MediaExample(
    media=record["media"],
    captions=decode(record["captions"]),
    questions=tuple(Question(question=q, answer=a, kind=k) for q, a, k in parts),
    document=document,
    scene=record["scene"].decode("utf-8"),
    name=name,
  )
