"""Any prepared TFDS set with pictures or videos, by name, its features mapped to ours.

Nothing is downloaded or copied: the set must have been built in the ArrayRecord format, which gives random
access without TensorFlow (`tfds build NAME --file_format=array_record`).
"""

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from ernie_jax.data.builds import Build, Records
from ernie_jax.data.media import fit_media
from ernie_jax.data.media_example import MediaExample, Question
from ernie_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class MediaTfds:
  """A TFDS set. Features are named by their path, such as "captions/text".

  Attributes:
    name: as TFDS names it, with configuration and version where needed: "coco_captions/2014:1.1.0".
    data_dir: where TFDS keeps its sets; empty for its default.
    media: the feature with the picture or the frames.
    caption: a feature that describes it: a text, a list of them, or a class (its name); empty for none.
    question, answer: features with a question and its answer, or lists of them; empty for none.
    train, validation: the names of its splits.
    side: the middle square is resized to side x side pixels.
    frames: of a video (1 + 4n), its first ones; 1: only the first, as a picture. A shorter one is refused.
    every: keep each `every`-th frame of a video.
    weight: share of the rows of a mixture, relative to the other sources.
  """

  name: str
  data_dir: str = ""
  media: str = "image"
  caption: str = ""
  question: str = ""
  answer: str = ""
  train: str = "train"
  validation: str = "validation"
  side: int = 32
  frames: int = 1
  every: int = 1
  weight: float = 1.0

  def __post_init__(self):
    for name in ("side", "frames", "every"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
    if self.frames % 4 != 1:
      raise ValueError(f"frames must be 1 + 4n, got {self.frames}")
    if not self.weight > 0:
      raise ValueError(f"weight must be positive, got {self.weight}")
    if bool(self.question) != bool(self.answer):
      raise ValueError("question and answer must both be given, or neither")
    if self.train == self.validation:
      raise ValueError(f"validation must be another split than train, got {self.validation!r}")

  @property
  def label(self) -> str:
    """What to call the source in messages."""
    return f"TFDS set {self.name}"


class TfdsExamples(Sequence[MediaExample]):
  """Random access to the examples of one split of a TFDS set."""

  def __init__(self, source: MediaTfds, split: str):
    """Opens the set.

    Args:
      source: which.
      split: "train" or "validation", for what `source` says these are called there.

    Raises:
      UserError: the set is not there in the right format, or lacks the split or a feature.
    """
    self.source, self.split = source, split
    theirs = getattr(source, split)
    info = _find(source)
    if theirs not in info.splits:
      raise UserError(f"{source.label}: no split {theirs}; it has {', '.join(info.splits)}")
    self._features = {
      name: _feature(info, source, getattr(source, name))
      for name in ("media", "caption", "question", "answer")
      if getattr(source, name)
    }
    directory = Path(info.data_dir)
    self._records = Records(Build(directory, source.name), theirs, what="TFDS set")
    counted = [
      info.full_name,
      theirs,
      info.splits[theirs].shard_lengths,
      dataclasses.asdict(source),
    ]
    del counted[-1]["data_dir"], counted[-1]["weight"]
    self.fingerprint = hashlib.sha256(repr(counted).encode()).hexdigest()[:16]

  @property
  def key(self) -> str:
    """Names these examples, for cache keys."""
    return f"{self.source.name.replace('/', '-').replace(':', '-')}-{self.split}-{self.fingerprint}"

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> MediaExample:
    record, source = self._records[index], self.source
    name = f"{source.label} {self.split}[{index}]"
    questions, answers = self._texts(record, "question"), self._texts(record, "answer")
    if len(questions) != len(answers):
      raise UserError(f"{name}: {len(questions)} questions have {len(answers)} answers")
    return MediaExample(
      media=self._media(record, name),
      captions=self._texts(record, "caption"),
      questions=tuple(Question(q, a) for q, a in zip(questions, answers)),
      name=name,
    )

  def _media(self, record: dict[str, Any], name: str) -> np.ndarray:
    source, value = self.source, _at(record, self.source.media)
    if isinstance(value, list) and len({np.shape(frame) for frame in value}) > 1:
      raise UserError(f"{name}: the frames of feature {source.media} have different sizes")
    array = np.asarray(value)
    if array.ndim == 4:
      array = array[:: source.every][: source.frames]
    try:
      media = fit_media(array, side=source.side)
    except ValueError as e:
      raise UserError(f"{name}: feature {source.media} is {e}") from e
    if array.ndim == 4 and len(media) < source.frames:
      raise UserError(f"{name}: has {len(media)} frames, {source.frames} are needed")
    return media

  def _texts(self, record: dict[str, Any], role: str) -> tuple[str, ...]:
    if role not in self._features:
      return ()
    values = _at(record, getattr(self.source, role))
    values = values if isinstance(values, (list, tuple)) else np.ravel(values).tolist()
    feature = self._features[role]
    if isinstance(feature, tfds.features.ClassLabel):
      return tuple(feature.int2str(int(v)).replace("_", " ") for v in values)
    return tuple(v.decode("utf-8") if isinstance(v, bytes) else str(v) for v in values)


def _find(source: MediaTfds) -> tfds.core.DatasetInfo:
  """The description of a set that lies prepared on this machine.

  It is read from the files alone: the code of a set may need TensorFlow or look on the network.
  """
  wanted = f"prepare it with: tfds build {source.name} --file_format=array_record"
  where = os.path.expanduser(source.data_dir) or None
  try:
    name, choice = tfds.core.naming.parse_builder_name_kwargs(source.name, data_dir=where)
    info = tfds.core.read_only_builder.builder_from_files(name.name, **choice).info
  except tfds.core.registered.DatasetNotFoundError as e:
    under = where or tfds.core.constants.DATA_DIR
    raise UserError(f"{source.label}: not found under {under}; {wanted}") from e
  except Exception as e:  # whatever TFDS says of a name or a damaged description
    reason = " ".join(str(e).split())[:120]
    raise UserError(f"{source.label}: cannot be opened ({reason})") from e
  if info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
    raise UserError(f"{source.label}: not in the ArrayRecord format; {wanted}")
  return info


def _feature(info: tfds.core.DatasetInfo, source: MediaTfds, path: str):
  """The feature at a path, inside of the lists it may stand in."""
  feature = info.features
  for name in path.split("/"):
    feature = getattr(feature, "feature", feature)
    if not isinstance(feature, tfds.features.FeaturesDict) or name not in feature:
      raise UserError(f"{source.label}: no feature {path}; it has {', '.join(info.features)}")
    feature = feature[name]
  return getattr(feature, "feature", feature)


def _at(record: Any, path: str) -> Any:
  """The value at a path; of a list of records, the list of their values."""
  for name in path.split("/"):
    record = [r[name] for r in record] if isinstance(record, list) else record[name]
  return record
