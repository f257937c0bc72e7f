"""Finding, splitting and reading text files, and the training command."""

import os
import subprocess
import sys

import pytest

from ernie_jax.data.text_files import TextSource, documents
from ernie_jax.errors import UserError
from ernie_jax.text import files
from ernie_jax.text.tokenizer import Tokenizer
from ernie_jax.text.train import training_texts


@pytest.fixture
def folder(tmp_path):
  for i in range(60):
    path = tmp_path / ("a" if i % 2 else "b") / f"{i}.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"file {i}\n")
  (tmp_path / "picture.png").write_bytes(b"\x89PNG")
  return tmp_path


def test_a_directory_means_its_text_files_in_an_order_of_their_names_alone(
  folder, tmp_path_factory
):
  found = files.find(str(folder))
  assert sorted(f.name for f in found) == sorted(
    f"{'a' if i % 2 else 'b'}/{i}.txt" for i in range(60)
  )
  moved = tmp_path_factory.mktemp("x") / "moved"
  folder.rename(moved)
  assert [f.name for f in files.find(str(moved))] == [f.name for f in found]


def test_a_glob_means_what_it_matches(folder):
  found = files.find(str(folder / "*" / "1?.txt"))
  assert sorted(f.name for f in found) == sorted(
    f"{'a' if i % 2 else 'b'}/{i}.txt" for i in range(10, 20)
  )


def test_a_tilde_is_the_home_folder(folder, monkeypatch):
  monkeypatch.setenv("HOME", str(folder.parent))
  assert files.find(f"~/{folder.name}") == files.find(str(folder))
  assert files.find(f"~/{folder.name}/*/1?.txt") == files.find(str(folder / "*" / "1?.txt"))


def test_the_default_is_the_standard_library_without_installed_packages():
  names = [f.name for f in files.find()]
  assert len(names) > 300 and all(n.endswith(".py") for n in names)
  assert not any("site-packages" in n for n in names)


def test_the_split_is_disjoint_complete_and_stable_when_files_come(folder):
  before = files.split(files.find(str(folder)), 20)
  assert 3 < len(before.validation) < 25
  names = lambda side: {f.name for f in side}
  assert not names(before.train) & names(before.validation)
  assert len(before.train) + len(before.validation) == 60
  (folder / "new.txt").write_text("new\n")
  after = files.split(files.find(str(folder)), 20)
  assert names(before.train) <= names(after.train)
  assert names(before.validation) <= names(after.validation)


@pytest.mark.parametrize("percent", [0.0001, 99.9999])
def test_neither_side_of_a_split_is_empty(folder, percent):
  sides = files.split(files.find(str(folder)), percent)
  assert sides.train and sides.validation


@pytest.mark.parametrize("data, text", [(b"", None), (b"caf\xe9", None), (b"a\r\nb", "a\r\nb")])
def test_only_utf8_is_read_and_line_ends_are_kept(tmp_path, data, text):
  (tmp_path / "x.txt").write_bytes(data)
  assert files.read(files.find(str(tmp_path))[0]) == text


@pytest.mark.parametrize("source", ["nowhere", "empty", "empty/*.txt"])
def test_a_source_without_text_is_a_user_error_that_names_it(tmp_path, source):
  (tmp_path / "empty").mkdir()
  with pytest.raises(UserError, match=source.replace("*", r"\*")):
    files.find(str(tmp_path / source))


def test_a_directory_that_cannot_be_listed_is_a_user_error(tmp_path, monkeypatch):
  def walk(root, onerror):
    onerror(PermissionError(13, "Permission denied", str(root)))

  monkeypatch.setattr(os, "walk", walk)
  with pytest.raises(UserError, match=f"{tmp_path}: Permission denied"):
    files.find(str(tmp_path))


def test_of_a_single_file_the_tokenizer_never_sees_the_end_that_training_holds_out(tmp_path):
  path = tmp_path / "only.txt"
  path.write_text("".join(f"line {i}\n" for i in range(100)))
  source = TextSource(path=str(path), validation_percent=10)
  seen = list(training_texts(str(path), max_bytes=10_000, validation_percent=10))
  assert seen == [text for _, text in documents(source, "train")]
  assert seen[0] + "".join(t for _, t in documents(source, "validation")) == path.read_text()


def test_no_more_text_is_read_than_asked(tmp_path):
  for i in range(9):
    (tmp_path / f"{i}.txt").write_text("é" * 10)
  texts = training_texts(str(tmp_path), max_bytes=25, validation_percent=10)
  assert list(texts) == ["é" * 10, "é" * 2]  # the thirteenth would end at the 26th byte


def run_command(*flags):
  command = [sys.executable, "-m", "ernie_jax.text.train", *flags]
  return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_command_trains_and_saves(corpus_dir, tmp_path):
  out = tmp_path / "tokenizer.model"
  done = run_command(f"--source={corpus_dir}", "--vocab_size=400", f"--out={out}")
  assert done.returncode == 0, done.stderr
  assert Tokenizer.load(out).vocab_size == 400


@pytest.mark.parametrize("flag", ["--validation_percent=-5", "--validation_percent=200"])
def test_an_impossible_share_is_told_with_its_flag(corpus_dir, tmp_path, flag):
  done = run_command(f"--source={corpus_dir}", f"--out={tmp_path}/x", "--vocab_size=400", flag)
  assert done.returncode == 2
  name, value = flag.split("=")
  assert done.stderr == f"error: {name} must be in (0, 100), got {value}\n"


def test_the_command_tells_a_mistake_in_one_line(tmp_path):
  done = run_command(f"--source={tmp_path}/none", f"--out={tmp_path}/x")
  assert done.returncode == 2
  assert done.stderr == f"error: text source {tmp_path}/none: no such file or directory\n"
