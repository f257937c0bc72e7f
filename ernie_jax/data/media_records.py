"""Media examples as TFDS records, written by every builder of pictures and videos and read back here."""

from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from ernie_jax.data.example_records import ExampleBuilder, RecordExamples, array
from ernie_jax.data.media_example import Document, MediaExample, Question


class MediaBuilder(ExampleBuilder[MediaExample]):
  """A TFDS builder of media examples; a subclass says which."""

  def features(self) -> dict[str, Any]:
    """See `ExampleBuilder`."""
    return _features(self.builder_config.source.side)

  def to_record(self, example: MediaExample) -> dict[str, Any]:
    """See `ExampleBuilder`."""
    return _to_record(example)


class MediaExamples(RecordExamples[MediaExample]):
  """Random access to the examples of one split of a build by a `MediaBuilder`."""

  what = "media build"

  def from_record(self, record: dict[str, Any], *, name: str) -> MediaExample:
    """See `RecordExamples`."""
    return _from_record(record, name=name)


def _features(side: int) -> dict[str, Any]:
  text = tfds.features.Text
  media = lambda: array((None, side, side, 3), np.uint8)
  return {
    "media": media(),
    "scene": text(),
    "captions": tfds.features.Sequence(text()),
    "questions": tfds.features.Sequence({"question": text(), "answer": text(), "kind": text()}),
    # All three are empty where there is no document.
    "document_texts": tfds.features.Sequence(text()),
    "document_pictures": media(),
    "document_scenes": tfds.features.Sequence(text()),
  }


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
