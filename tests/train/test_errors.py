"""Bad input to the training command: one line that names the key or file, and nothing damaged."""

import errno
import os
import pathlib
import shutil

import pytest

from ernie_jax import cli
from ernie_jax.errors import UserError
from ernie_jax.train import checkpoint
from ernie_jax.train.experiment import build_experiment
from ernie_jax.train.metrics import read_metrics
from ernie_jax.train.run import run_experiment

# From the first save on, no file may grow past 40 kB, which is less than a checkpoint and more than
# anything else. Not before, or the compilation cache, which tests share, would get files cut short.
FULL_DISK = """
import resource, runpy
from ernie_jax.train.checkpoint import Checkpoints

save = Checkpoints.save

def save_on_a_full_disk(self, *arguments):
  resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
  return save(self, *arguments)

Checkpoints.save = save_on_a_full_disk
runpy.run_module("ernie_jax.train", run_name="__main__", alter_sys=True)
"""


def contents(folder: pathlib.Path) -> dict[pathlib.Path, bytes]:
  """Every file of complete checkpoints; what an unfinished save left is removed at the next start."""
  whole = lambda p: p.is_file() and "orbax-checkpoint-tmp" not in str(p)
  return {p: p.read_bytes() for p in folder.rglob("*") if whole(p)}


def only_error(done) -> str:
  """What a failed command told: exactly one line."""
  assert done.returncode == cli.USER_ERROR_STATUS, done.stderr
  (line,) = done.stderr.splitlines()
  assert line.startswith("error: ")
  return line


@pytest.mark.parametrize(
  ("flag", "told"),
  [
    ("--config.model.dept=3", "did you mean config.model.depth?"),
    ("--config.elastic.members=('9x4x2',)", "config.elastic.members: 9x4x2 has depth 9"),
    (
      "--config.evaluation.members=('1x1x1',)",
      "config.evaluation.members: '1x1x1' is not one of config.elastic",
    ),
    ("--config.evaluation.rows=0", "config.evaluation: rows must be at least 1"),
    ("--config.train.keep_latest=0", "config.train: keep_latest must be at least 1"),
    ("--config.train.profile=(3,1)", "profile must be [first, last], got [3, 1]"),
    ("--config.mesh.fsdp=3", "config.mesh.fsdp=3 does not divide 1 device"),
  ],
)
def test_a_bad_key_is_named_before_anything_is_made(command, tmp_path, flag, told):
  assert told in only_error(command.train(tmp_path / "run", flag))
  assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_another_config_is_refused_by_the_key_that_differs(command, finished):
  before = contents(finished)
  told = only_error(command.train(finished, "--config.model.width=24", "--config.train.steps=30"))
  assert "config.model.width was 16, is 24" in told
  assert contents(finished) == before


def test_a_member_that_is_not_in_the_checkpoint_is_refused(command, finished, tmp_path):
  flags = [f"--workdir={finished}", "--member=2x8x1", f"--out={tmp_path / 'small'}"]
  done = command.run("-m", "ernie_jax.elastic.slice", *flags)
  assert "--member: 2x8x1 has 8 experts, but this model has 4" in only_error(done)
  assert not (tmp_path / "small").exists()


def test_a_disk_that_fills_up_while_saving_harms_nothing(command, finished, tmp_path):
  workdir = tmp_path / "run"
  shutil.copytree(finished, workdir)
  shutil.rmtree(workdir / "checkpoints" / "20")
  before = contents(workdir / "checkpoints")
  done = command.train(workdir, program=("-c", FULL_DISK))
  assert done.returncode == cli.USER_ERROR_STATUS, done.stderr
  errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
  assert len(errors) == 1 and errors[0].startswith("error: saving step 20 in"), done.stderr
  assert "Traceback" not in done.stderr
  assert contents(workdir / "checkpoints") == before


def test_training_that_diverges_stops_and_names_the_tensors(command, finished, tmp_path):
  workdir = tmp_path / "run"
  shutil.copytree(finished, workdir)
  done = command.train(workdir, "--config.train.steps=40", "--config.train.schedule.peak=1e30")
  assert done.returncode == cli.USER_ERROR_STATUS, done.stderr
  (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
  assert "is not finite: " in error and "gradient of embed/embedding" in error
  assert "the last good checkpoint, step 20, stays" in error
  assert checkpoint.steps(workdir / "checkpoints")[-1] == 20
  lines = read_metrics(workdir)
  # Balance is NaN where no row of a step ran the full model; nothing else is.
  strange = [key for line in lines for key, value in line.items() if "nan" in repr(value)]
  assert all(key.startswith("router/") for key in strange)
  assert lines[:20] == read_metrics(finished)


# The rest is told by the same function that the command calls; a process for each would cost seconds.


@pytest.fixture
def values(config_file):
  """The tiny experiment's config, as the command would read it."""
  scope = {}
  exec(config_file.read_text(), scope)
  return scope["get_config"]()


def refused(values, workdir) -> str:
  with pytest.raises(UserError) as e:
    run_experiment(build_experiment(values), workdir)
  assert "\n" not in str(e.value)
  return str(e.value)


def test_a_text_directory_without_text_is_named(values, tmp_path):
  (tmp_path / "text").mkdir()
  values.data.sources = ({"path": str(tmp_path / "text")},)
  assert f"{tmp_path / 'text'}: no text files" in refused(values, tmp_path / "run")
  (tmp_path / "text" / "picture.txt").write_bytes(b"\xff\xfe\xff" * 100)
  assert f"{tmp_path / 'text'}: no UTF-8 text" in refused(values, tmp_path / "run")
  values.data.sources = ({"path": str(tmp_path / "nowhere")},)
  assert f"{tmp_path / 'nowhere'}: no such file" in refused(values, tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_a_text_directory_that_may_not_be_read_is_named(values, tmp_path, monkeypatch):
  folder, scandir = str(tmp_path / "text"), os.scandir
  os.mkdir(folder)

  def refuse(path):  # permissions would not stop a test that root runs
    if path == folder:
      raise PermissionError(errno.EACCES, "Permission denied", path)
    return scandir(path)

  monkeypatch.setattr(os, "scandir", refuse)
  values.data.sources = ({"path": folder},)
  assert f"{folder}: Permission denied" in refused(values, tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_a_record_file_cut_short_is_named(values, finished, tmp_path):
  shutil.copytree(values.data.data_dir, tmp_path / "data")
  values.data.data_dir = str(tmp_path / "data")
  shard = max((tmp_path / "data").rglob("*array_record*"), key=lambda p: p.stat().st_size)
  shard.write_bytes(shard.read_bytes()[:-100])
  assert str(shard) in refused(values, tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_a_tokenizer_file_that_is_damaged_is_named(values, tmp_path):
  (tmp_path / "tokenizer.model").write_text("not one")
  values.text.tokenizer = str(tmp_path / "tokenizer.model")
  assert str(tmp_path / "tokenizer.model") in refused(values, tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_a_workdir_that_cannot_be_made_is_named(values, tmp_path):
  (tmp_path / "file").write_text("")
  assert str(tmp_path / "file") in refused(values, tmp_path / "file")
  assert str(tmp_path / "file") in refused(values, tmp_path / "file" / "run")


def test_a_tokenizer_that_is_larger_than_the_model_allows_is_told(values, tmp_path):
  values.model.vocab_size = 512
  told = refused(values, tmp_path / "run")
  assert "config.model.vocab_size (512) is below the tokenizer's 640 ids" in told
