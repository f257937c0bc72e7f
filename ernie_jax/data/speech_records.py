"""Speech examples as TFDS records, written by every builder of speech and read back here."""

from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from ernie_jax.data.example_records import ExampleBuilder, RecordExamples, array
from ernie_jax.data.speech_example import SpeechExample

_TEXTS = ("transcript", "speaker", "utterance")
_ARRAYS = {"waveform": np.int16, "phones": np.uint8, "f0": np.float32}


class SpeechBuilder(ExampleBuilder[SpeechExample]):
  """A TFDS builder of speech; a subclass says which."""

  def features(self) -> dict[str, Any]:
    """See `ExampleBuilder`."""
    arrays = {k: array((None,), v) for k, v in _ARRAYS.items()}
    return arrays | {name: tfds.features.Text() for name in _TEXTS}

  def to_record(self, example: SpeechExample) -> dict[str, Any]:
    """See `ExampleBuilder`."""
    return {name: getattr(example, name) for name in (*_ARRAYS, *_TEXTS)}


class SpeechExamples(RecordExamples[SpeechExample]):
  """Random access to the examples of one split of a build by a `SpeechBuilder`."""

  what = "speech build"

  def from_record(self, record: dict[str, Any], *, name: str) -> SpeechExample:
    """See `RecordExamples`."""
    texts = {k: record[k].decode("utf-8") for k in _TEXTS}
    return SpeechExample(**{k: record[k] for k in _ARRAYS}, **texts, name=name)
