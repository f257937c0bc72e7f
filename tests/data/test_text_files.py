"""The builder: what it keeps, how it splits, and what it says of bad input."""

import itertools
import os
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow_datasets.core import shuffle

from ernie_jax.data import text_files
from ernie_jax.data.text_files import Pieces, TextSource, cut, prepare
from ernie_jax.errors import UserError


def whole_files(*sides):
  """Path -> text, put together from pieces in their order."""
  texts = {}
  for path, pieces in itertools.groupby(itertools.chain(*sides), key=lambda p: p.path):
    pieces = list(pieces)
    assert path not in texts, "a file lies in one stretch"
    assert [p.first for p in pieces] == [True] + [False] * (len(pieces) - 1)
    assert [p.last for p in pieces] == [False] * (len(pieces) - 1) + [True]
    texts[path] = "".join(p.text for p in pieces)
  return texts


def test_records_are_the_files_exactly_and_sides_share_none(corpus_dir, train, validation):
  on_disk = {
    p.relative_to(corpus_dir).as_posix(): p.read_bytes().decode() for p in corpus_dir.rglob("*.py")
  }
  assert whole_files(train, validation) == on_disk
  sides = [{p.path for p in side} for side in (train, validation)]
  assert not sides[0] & sides[1]
  assert 3 <= len(sides[1]) <= 20


@settings(deadline=None, max_examples=50)
@given(text=st.text(alphabet="ab \n\r", min_size=1, max_size=80), most=st.integers(1, 20))
def test_pieces_are_short_end_at_line_ends_and_lose_nothing(text, most):
  pieces = list(cut(text, path="x", most=most))
  assert "".join(p.text for p in pieces) == text
  for piece in pieces:
    assert 0 < len(piece.text) <= most
    assert piece.last or piece.text.endswith("\n") or "\n" not in piece.text


def test_a_finished_build_is_used_again_and_a_changed_source_is_a_new_one(tmp_path):
  folder, data = tmp_path / "text", tmp_path / "data"
  folder.mkdir()
  for i in range(4):
    (folder / f"{i}.txt").write_text(f"text {i}\n")
  source = TextSource(path=str(folder))
  first = prepare(source, data)
  written = os.stat(first.directory / "dataset_info.json").st_mtime_ns
  assert prepare(source, data) == first
  assert os.stat(first.directory / "dataset_info.json").st_mtime_ns == written
  (folder / "1.txt").write_text("other text\n")
  second = prepare(source, data)
  assert second.key != first.key
  assert any("other" in p.text for side in ("train", "validation") for p in Pieces(second, side))


def test_the_same_source_gives_the_same_records_anywhere(source, train, tmp_path):
  again = Pieces(prepare(source, tmp_path), "train")
  assert list(again) == list(train)


def test_what_does_not_fit_in_memory_is_built_alike(source, train, tmp_path, monkeypatch):
  monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 10_000)
  again = Pieces(prepare(source, tmp_path), "train")
  assert list(again) == list(train)
  assert not list(tmp_path.rglob("*.tmp"))


def test_an_interrupted_build_leaves_nothing_and_the_next_is_whole(source, train, tmp_path):
  class Killed(BaseException):
    pass

  real = text_files.cut

  def broken(text, **arguments):
    yield from itertools.islice(real(text, **arguments), 1)
    raise Killed

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(text_files, "cut", broken)
    with pytest.raises(Killed):
      prepare(source, tmp_path)
  root = next((tmp_path / "text_files").iterdir())
  assert not (root / "1.0.0").exists()
  (root / "incomplete.left_1.0.0").mkdir()  # what a kill -9 leaves
  build = prepare(source, tmp_path)
  assert list(Pieces(build, "train")) == list(train)
  assert sorted(p.name for p in root.iterdir()) == ["1.0.0", "lock"]


def test_one_file_holds_out_its_end(tmp_path):
  path = tmp_path / "only.txt"
  path.write_text("".join(f"line {i}\n" for i in range(100)))
  build = prepare(TextSource(path=str(path), validation_percent=10), tmp_path / "data")
  sides = ["".join(p.text for p in Pieces(build, side)) for side in ("train", "validation")]
  assert "".join(sides) == path.read_text()
  assert sides[0].endswith("\n") and 50 < len(sides[1]) < 120
  assert Pieces(build, "train")[0].first and Pieces(build, "validation")[0].first


def test_files_that_are_not_utf8_or_empty_are_left_out(tmp_path):
  for i in range(8):
    (tmp_path / f"{i}.txt").write_text(f"good {i}\n")
  (tmp_path / "bad.txt").write_bytes(b"caf\xe9 \xff\n")
  (tmp_path / "empty.txt").write_text("")
  build = prepare(TextSource(path=str(tmp_path)), tmp_path / "data")
  paths = {p.path for side in ("train", "validation") for p in Pieces(build, side)}
  assert paths == {f"{i}.txt" for i in range(8)}


def test_a_source_without_readable_text_is_a_user_error_that_names_it(tmp_path):
  for i in range(3):
    (tmp_path / f"{i}.txt").write_bytes(b"\xff\xfe\xff")
  with pytest.raises(UserError, match=f"{re.escape(str(tmp_path))}: no UTF-8 text"):
    prepare(TextSource(path=str(tmp_path)), tmp_path / "data")


def test_one_character_is_too_little_text(tmp_path):
  (tmp_path / "x.txt").write_text("x")
  with pytest.raises(UserError, match="too little text"):
    prepare(TextSource(path=str(tmp_path)), tmp_path / "data")


def test_a_data_directory_that_cannot_be_written_is_a_user_error(source, tmp_path):
  (tmp_path / "file").write_text("in the way")
  with pytest.raises(UserError, match=re.escape(str(tmp_path / "file"))):
    prepare(source, tmp_path / "file")


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.999])
def test_a_truncated_shard_is_a_user_error_that_names_it(build, tmp_path, keep):
  directory = tmp_path / "1.0.0"
  shutil.copytree(build.directory, directory)
  shard = next(directory.glob("*train*"))
  size = shard.stat().st_size
  os.truncate(shard, keep if keep > 1 or keep == 0 else int(size * keep))
  with pytest.raises(UserError, match=re.escape(str(shard))):
    Pieces(text_files.Build(directory=directory, key="x"), "train")


@pytest.mark.parametrize("name", ["*train*", "dataset_info.json", "features.json"])
def test_a_missing_part_of_a_build_is_a_user_error(build, tmp_path, name):
  directory = tmp_path / "1.0.0"
  shutil.copytree(build.directory, directory)
  next(directory.glob(name)).unlink()
  with pytest.raises(UserError, match=re.escape(str(directory))):
    Pieces(text_files.Build(directory=Path(directory), key="x"), "train")


@pytest.mark.parametrize(
  "key, value", [("weight", 0.0), ("validation_percent", 100.0), ("piece_chars", 0)]
)
def test_impossible_settings_are_refused_by_name(key, value):
  with pytest.raises(ValueError, match=key):
    TextSource(**{key: value})
