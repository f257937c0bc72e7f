"""TFDS sets by name: features mapped by their path, read where they lie, and told what is missing."""

import contextlib
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from ernie_jax.data.media_sources import open_examples
from ernie_jax.data.media_tfds import MediaTfds
from ernie_jax.errors import UserError

COUNT = 5


def record(index):
  rng = np.random.default_rng(index)
  return {
    "image": rng.integers(0, 256, (20, 24, 3), dtype=np.uint8),
    "grey": rng.integers(0, 256, (16, 16, 1), dtype=np.uint8),
    "clip": rng.integers(0, 256, (9, 16, 16, 3), dtype=np.uint8),
    "depth": rng.random((16, 16, 1), dtype=np.float32),
    "label": index % 2,
    "captions": {"text": [f"first {index}", f"second {index}"]},
    "asked": [{"question": "What?", "answer": f"{index}"}],
    "title": f"title {index}",
  }


def png(array):
  """What TFDS can keep as an image without TensorFlow."""
  file = io.BytesIO()
  Image.fromarray(array).save(file, format="PNG")
  file.seek(0)
  return file


def make(name, data_dir):
  """A prepared set that is known by its files alone, as one that another program made."""
  features = tfds.features

  class Small(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.2.0")
    code_path = None

    def _info(self):
      return tfds.core.DatasetInfo(
        builder=self,
        features=features.FeaturesDict(
          {
            "image": features.Image(shape=(None, None, 3)),
            "grey": features.Image(shape=(16, 16, 1)),
            "clip": features.Tensor(shape=(9, 16, 16, 3), dtype=np.uint8),
            "depth": features.Tensor(shape=(16, 16, 1), dtype=np.float32),
            "label": features.ClassLabel(names=["fire_truck", "cat"]),
            "captions": features.FeaturesDict({"text": features.Sequence(features.Text())}),
            "asked": features.Sequence({"question": features.Text(), "answer": features.Text()}),
            "title": features.Text(),
          }
        ),
        disable_shuffling=True,
      )

    def _split_generators(self, dl_manager):
      del dl_manager
      return {"train": self._generate_examples(COUNT), "test": self._generate_examples(2)}

    def _generate_examples(self, count):
      for i in range(count):
        values = record(i)
        yield i, {**values, "image": png(values["image"]), "grey": png(values["grey"][..., 0])}

  Small.name = name
  with contextlib.redirect_stdout(io.StringIO()):
    tfds.disable_progress_bar()
    Small(data_dir=data_dir, file_format="array_record").download_and_prepare()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  directory = tmp_path_factory.mktemp("tfds")
  make("small_set", directory)
  return str(directory)


def open_set(data_dir, split="train", **values):
  source = MediaTfds(**{"name": "small_set", "data_dir": data_dir, "validation": "test", **values})
  return open_examples(source, split, data_dir="unused")


def test_a_set_is_read_by_name_with_its_features_mapped(data_dir):
  examples = open_set(
    data_dir, side=20, caption="captions/text", question="asked/question", answer="asked/answer"
  )
  assert len(examples) == COUNT and len(open_set(data_dir, "validation")) == 2
  for i, example in enumerate(examples):
    assert (example.media == record(i)["image"][None, :, 2:22]).all()
    assert example.captions == (f"first {i}", f"second {i}")
    assert [(q.question, q.answer) for q in example.questions] == [("What?", str(i))]
    assert f"train[{i}]" in example.name


def test_a_version_may_be_named(data_dir):
  assert len(open_set(data_dir, name="small_set:1.2.0")) == COUNT


def test_a_set_in_another_format_is_told_how_to_be_prepared(tmp_path, data_dir):
  shutil.copytree(Path(data_dir) / "small_set", tmp_path / "small_set")
  description = tmp_path / "small_set" / "1.2.0" / "dataset_info.json"
  description.write_text(description.read_text().replace("array_record", "tfrecord"))
  with pytest.raises(
    UserError, match=r"not in the ArrayRecord format; prepare it with: tfds build"
  ):
    open_set(str(tmp_path))


def test_a_class_is_captioned_by_its_name_and_a_text_by_itself(data_dir):
  assert open_set(data_dir, caption="label")[0].captions == ("fire truck",)
  assert open_set(data_dir, caption="title")[1].captions == ("title 1",)
  assert open_set(data_dir)[0].captions == ()


def test_grey_and_video_take_the_one_form(data_dir):
  grey = open_set(data_dir, media="grey", side=16)[0].media
  assert (grey == np.repeat(record(0)["grey"][None], 3, axis=-1)).all()
  clip = open_set(data_dir, media="clip", side=16, frames=5, every=2)[3].media
  assert (clip == record(3)["clip"][::2]).all()
  assert open_set(data_dir, media="clip", side=32)[0].media.shape == (1, 32, 32, 3)


def test_the_fingerprint_tells_sets_and_settings_apart(data_dir):
  prints = [
    open_set(data_dir).fingerprint,
    open_set(data_dir, "validation").fingerprint,
    open_set(data_dir, caption="label").fingerprint,
  ]
  assert len(set(prints)) == 3
  assert open_set(data_dir, weight=2.0).fingerprint == prints[0]


@pytest.mark.parametrize(
  "values, told",
  [
    (
      {"name": "no_such_set"},
      "TFDS set no_such_set: not found under .*; prepare it with: tfds build",
    ),
    ({"name": "small_set:9.9.9"}, "TFDS set small_set:9.9.9: not found"),
    ({"name": "small set"}, "TFDS set small set: cannot be opened"),
    ({"name": "coco_captions/2014"}, "TFDS set coco_captions/2014: not found"),
    ({"train": "fit"}, "no split fit; it has train, test"),
    ({"media": "picture"}, "no feature picture; it has .*image"),
    ({"caption": "captions/words"}, "no feature captions/words"),
    ({"caption": "title/text"}, "no feature title/text"),
  ],
)
def test_what_a_set_lacks_is_told_in_one_line(data_dir, values, told):
  with pytest.raises(UserError, match=told) as error:
    open_set(data_dir, **values)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  "values, told",
  [
    ({"media": "depth"}, r"feature depth is neither uint8 nor uint16: float32"),
    ({"media": "title"}, r"feature title is not \[H, W, C\]"),
    ({"media": "clip", "frames": 13}, "has 9 frames, 13 are needed"),
    ({"media": "clip", "frames": 5, "every": 9}, "has 1 frames, 5 are needed"),
    ({"question": "asked/question", "answer": "captions/text"}, "1 questions have 2 answers"),
  ],
)
def test_what_does_not_fit_in_an_example_is_told_in_one_line(data_dir, values, told):
  with pytest.raises(UserError, match=rf"TFDS set small_set train\[0\].*{told}"):
    _ = open_set(data_dir, **values)[0]


def test_frames_of_different_sizes_are_told_in_one_line(data_dir):
  ragged = {"clip": [np.zeros((side, side, 3), np.uint8) for side in (4, 6)]}
  with pytest.raises(UserError, match="a set: the frames of feature clip have different sizes"):
    open_set(data_dir, media="clip")._media(ragged, "a set")


@pytest.mark.parametrize(
  "values, told",
  [
    ({"frames": 3}, "frames"),
    ({"side": 0}, "side"),
    ({"weight": 0.0}, "weight"),
    ({"question": "x"}, "question and answer"),
    ({"train": "validation"}, "validation must be another split than train"),
  ],
)
def test_impossible_settings_are_refused_by_name(values, told):
  with pytest.raises(ValueError, match=told):
    MediaTfds(name="x", **values)
