import pytest

from ernie_jax.errors import UserError
from ernie_jax.whole_file import written_whole


def test_a_file_appears_whole_with_its_folders(tmp_path):
  path = tmp_path / "new" / "file.txt"
  with written_whole(path) as part:
    part.write_text("all of it")
    assert not path.exists()
  assert path.read_text() == "all of it"
  assert list(path.parent.iterdir()) == [path]


def test_a_failure_keeps_the_old_file_and_leaves_nothing(tmp_path):
  path = tmp_path / "file.txt"
  path.write_text("old")
  with pytest.raises(RuntimeError), written_whole(path) as part:
    part.write_text("half")
    raise RuntimeError
  assert path.read_text() == "old"
  assert list(tmp_path.iterdir()) == [path]


def test_a_path_that_cannot_be_written_is_named(tmp_path):
  (tmp_path / "file").write_text("")
  below = tmp_path / "file" / "below"
  with pytest.raises(UserError, match=f"cannot write {below}"), written_whole(below) as part:
    part.write_text("")
