"""The user's own folder: what its lines say is what is kept, and each mistake is told with its file and line."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from ernie_jax.data import media_files
from ernie_jax.data.media import read_media, write_media
from ernie_jax.data.media_files import MediaFolder, prepare
from ernie_jax.data.media_records import MediaExamples
from ernie_jax.data.media_sources import open_examples
from ernie_jax.errors import UserError

COLOURS = ((255, 0, 0), (0, 160, 0), (0, 0, 255), (250, 250, 0))


def fill(folder, lines=None):
  """Four pictures, one clip of nine frames, and the lines."""
  (folder / "more").mkdir(parents=True)
  for i, colour in enumerate(COLOURS):
    Image.new("RGB", (40 + i, 40), colour).save(folder / ("more" if i % 2 else ".") / f"{i}.png")
  clip = np.zeros((9, 32, 32, 3), np.uint8)
  clip[:] = np.arange(9)[:, None, None, None] * 20
  write_media(folder / "clip.gif", clip)
  if lines is not None:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "metadata.jsonl").write_text(text + "\n")
  return folder


LINES = [
  {"file_name": "0.png", "captions": "red", "split": "train"},
  {
    "file_name": "more/1.png",
    "captions": ["green", "a green picture"],
    "questions": [
      {"question": "What colour?", "answer": "green", "kind": "colour"},
      {"question": "Is it red?", "answer": "no"},
    ],
    "split": "train",
  },
  "",
  {"file_name": "clip.gif", "captions": "it gets light", "split": "validation"},
  {
    "document": ["a", "b ", {"file_name": "2.png"}, {"file_name": "more/3.png"}, "end"],
    "split": "validation",
  },
]


def test_what_the_lines_say_is_what_is_kept(tmp_path):
  folder = fill(tmp_path / "own", LINES)
  source = MediaFolder(path=str(folder), side=16, frames=5, every=2)
  train = {e.captions[0]: e for e in open_examples(source, "train", data_dir=tmp_path / "data")}
  assert set(train) == {"red", "green"}
  assert train["green"].captions == ("green", "a green picture")
  asked = [(q.question, q.answer, q.kind) for q in train["green"].questions]
  assert asked == [("What colour?", "green", "colour"), ("Is it red?", "no", "")]
  assert (train["red"].media == np.full((1, 16, 16, 3), COLOURS[0])).all()
  validation = list(open_examples(source, "validation", data_dir=tmp_path / "data"))
  (clip,) = (e for e in validation if e.captions)
  assert (clip.media == read_media(folder / "clip.gif", side=16)[::2]).all()
  (told,) = (e for e in validation if not e.captions)
  assert told.document.texts == ("ab ", "", "end")
  assert (told.document.pictures[:, 0, 0] == np.array(COLOURS[2:])).all()
  assert (told.media == told.document.pictures[:1]).all()


def test_without_lines_every_picture_and_video_is_taken(tmp_path):
  folder = fill(tmp_path / "own")
  (folder / "notes.txt").write_text("not one of them")
  source = MediaFolder(path=str(folder), validation_percent=30)
  sides = {
    s: list(open_examples(source, s, data_dir=tmp_path / "data")) for s in ("train", "validation")
  }
  assert sum(map(len, sides.values())) == 5 and all(sides.values())
  assert all(e.media.shape == (1, 32, 32, 3) for side in sides.values() for e in side)
  assert not any(e.captions or e.questions or e.document for e in sides["train"])


def test_a_changed_file_or_line_is_another_build_and_nothing_else_is(tmp_path):
  folder = fill(tmp_path / "own", LINES)
  source = MediaFolder(path=str(folder))
  first = prepare(source, tmp_path / "data")
  assert prepare(source, tmp_path / "data") == first
  with open(folder / "metadata.jsonl", "a") as f:
    f.write("\n")
  assert prepare(source, tmp_path / "data") == first
  os.utime(folder / "0.png", ns=(1, 1))
  second = prepare(source, tmp_path / "data")
  (folder / "metadata.jsonl").write_text(
    (folder / "metadata.jsonl").read_text().replace("red", "r")
  )
  third = prepare(source, tmp_path / "data")
  assert len({first.key, second.key, third.key}) == 3
  prints = [MediaExamples(build, "train").fingerprint for build in (first, second, third)]
  assert (
    prints[0] == prints[1] != prints[2]
  )  # the same contents, at whatever time they were written


@pytest.mark.parametrize(
  "line, told",
  [
    ("{", "not JSON"),
    ([1], "must be an object"),
    (
      {"file_name": "0.png", "captoins": "x"},
      "unknown key captoins; known are file_name, captions",
    ),
    ({"captions": "x"}, "lacks file_name"),
    ({"file_name": 3}, "file_name must be text"),
    ({"file_name": "0.png", "captions": [1]}, "captions must be text"),
    ({"file_name": "0.png", "captions": 1}, "captions must be a list"),
    ({"file_name": "0.png", "questions": [{"question": "x"}]}, "questions: lacks answer"),
    ({"file_name": "0.png", "questions": ["x"]}, "questions: must be an object"),
    ({"document": ["x"]}, "document has no picture"),
    ({"document": ["x", {"file": "0.png"}]}, "document: unknown key file"),
    ({"document": [{}]}, "document: file_name must be text"),
    ({"file_name": "0.png", "split": "test"}, "split must be one of train, validation"),
    ({"file_name": "gone.png"}, r"gone\.png: No such file"),
  ],
)
def test_a_bad_line_is_told_with_its_number(tmp_path, line, told):
  folder = fill(tmp_path / "own", [*LINES, line])
  with pytest.raises(UserError, match=rf"metadata\.jsonl line 6: .*{told}") as error:
    prepare(MediaFolder(path=str(folder)), tmp_path / "data")
  assert "\n" not in str(error.value)
  assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
  "line",
  [
    {"file_name": "./0.png", "split": "validation"},
    {"file_name": "more/3.png", "split": "train"},  # in a document of the validation side
    {"document": [{"file_name": "0.png"}, {"file_name": "more/../clip.gif"}], "split": "train"},
  ],
)
def test_a_file_on_both_sides_of_the_split_is_told_with_its_lines(tmp_path, line):
  folder = fill(tmp_path / "own", [*LINES, line])
  with pytest.raises(UserError, match=r"is on both sides of the split \(train: ") as error:
    prepare(MediaFolder(path=str(folder)), tmp_path / "data")
  assert "line 6" in str(error.value) and "\n" not in str(error.value)
  assert not (tmp_path / "data").exists()


def test_a_line_may_hold_line_separators_of_other_kinds(tmp_path):
  folder = fill(tmp_path / "own", LINES)
  caption = "one\x85two\u2028three\u2029"
  line = json.dumps({"file_name": "0.png", "captions": caption}, ensure_ascii=False)
  with open(folder / "metadata.jsonl", "a", encoding="utf-8") as f:
    f.write(line + "\r\n")
  assert media_files.read_lines(MediaFolder(path=str(folder)))[-1].captions == (caption,)


@pytest.mark.parametrize(
  "name, content, told",
  [
    ("0.png", b"not a picture", r"0\.png: not a picture"),
    ("clip.gif", b"", r"clip\.gif: the file is empty"),
    ("more/3.png", b"", r"3\.png: the file is empty"),
  ],
)
def test_a_bad_file_is_told_in_one_line_and_leaves_no_build(tmp_path, name, content, told):
  folder = fill(tmp_path / "own", LINES)
  good = (folder / name).read_bytes()
  (folder / name).write_bytes(content)
  source = MediaFolder(path=str(folder))
  with pytest.raises(UserError, match=told) as error:
    prepare(source, tmp_path / "data")
  assert "\n" not in str(error.value)
  assert not list((tmp_path / "data").glob("*/*/1.0.0"))
  (folder / name).write_bytes(good)
  assert len(MediaExamples(prepare(source, tmp_path / "data"), "train")) == 2


def test_a_video_that_is_too_short_is_named(tmp_path):
  folder = fill(tmp_path / "own", LINES)
  with pytest.raises(UserError, match=r"clip\.gif: has 9 frames, 13 are needed"):
    prepare(MediaFolder(path=str(folder), frames=13), tmp_path / "data")


def test_a_video_of_which_one_frame_is_kept_is_no_picture(tmp_path):
  folder = fill(tmp_path / "own", LINES)
  write_media(folder / "short.mp4", np.zeros((3, 32, 32, 3), np.uint8))
  with open(folder / "metadata.jsonl", "a") as f:
    f.write(json.dumps({"file_name": "short.mp4", "split": "train"}) + "\n")
  with pytest.raises(UserError, match=r"short\.mp4: has 1 frames at one in 4, 5 are needed"):
    prepare(MediaFolder(path=str(folder), frames=5, every=4), tmp_path / "data")


def test_a_folder_that_cannot_be_used_is_told(tmp_path):
  with pytest.raises(UserError, match="no such folder"):
    prepare(MediaFolder(path=str(tmp_path / "gone")), tmp_path / "data")
  (tmp_path / "empty").mkdir()
  with pytest.raises(UserError, match="no pictures or videos"):
    prepare(MediaFolder(path=str(tmp_path / "empty")), tmp_path / "data")
  folder = fill(tmp_path / "own", LINES[:1])
  with pytest.raises(UserError, match="no file for the validation side"):
    prepare(MediaFolder(path=str(folder)), tmp_path / "data")
  (folder / "metadata.jsonl").write_bytes(b"\xff\xfe")
  with pytest.raises(UserError, match=r"metadata\.jsonl: cannot be read as UTF-8"):
    prepare(MediaFolder(path=str(folder)), tmp_path / "data")


def test_the_hash_of_a_name_decides_its_side_whatever_else_is_there():
  lines = [media_files.Line(where="", file_name=f"{i}.png") for i in range(200)]
  sides = media_files.split_lines(lines, 20.0)
  assert 20 <= len(sides["validation"]) <= 60
  fewer = media_files.split_lines(lines[::2], 20.0)
  for split, chosen in fewer.items():
    assert set(chosen) <= set(sides[split])


def test_a_source_has_only_its_own_splits(tmp_path):
  with pytest.raises(ValueError, match="not held_out"):
    open_examples(MediaFolder(path=str(tmp_path)), "held_out", data_dir=tmp_path)


@pytest.mark.parametrize(
  "key, value",
  [("side", 0), ("frames", 8), ("every", 0), ("weight", 0.0), ("validation_percent", 0.0)],
)
def test_impossible_settings_are_refused_by_name(key, value):
  with pytest.raises(ValueError, match=key):
    MediaFolder(**{"path": "x", key: value})
