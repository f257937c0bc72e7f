"""Killed at any moment and started again, a run continues bit for bit as if it never was."""

import signal

import jax
import numpy as np
import pytest

from ernie_jax.train import checkpoint
from ernie_jax.train.metrics import read_metrics

SPEED = ("tokens_per_second", "flops_per_second", "utilisation", "data_wait")


@pytest.fixture(scope="module")
def interrupted(command, tmp_path_factory):
  """Killed between checkpoints, killed in the next save, terminated, and then run to its end."""
  workdir = tmp_path_factory.mktemp("interrupted") / "run"
  folder = workdir / "checkpoints"

  killed = command.interrupt("kill", 8, workdir)
  assert killed.returncode == -signal.SIGKILL, killed.stderr
  assert checkpoint.steps(folder) == [5] and read_metrics(workdir)[-1]["step"] == 8

  killed = command.interrupt("kill_saving", 10, workdir)
  assert killed.returncode == -signal.SIGKILL, killed.stderr
  assert checkpoint.steps(folder) == [5] and any(folder.glob("10.*tmp*"))

  stopped = command.interrupt("terminate", 12, workdir)
  assert stopped.returncode == 0, stopped.stderr
  step = checkpoint.steps(folder)[-1]
  assert 12 <= step < 20 and f"SIGTERM after step {step}, which is saved" in stopped.stdout
  assert not any(folder.glob("*tmp*")) and "Traceback" not in stopped.stderr

  done = command.train(workdir)
  assert done.returncode == 0 and f"steps {step} to 20" in done.stdout, done.stderr
  return workdir


def test_the_loss_curve_is_that_of_a_run_never_interrupted(finished, interrupted):
  wanted, got = (
    [{k: v for k, v in line.items() if k not in SPEED} for line in read_metrics(workdir)]
    for workdir in (finished, interrupted)
  )
  assert [line["step"] for line in wanted] == list(range(1, 21))
  assert len({line["loss"] for line in wanted}) == 20
  assert sum("held_out/loss" in line for line in wanted) == 2
  assert got == wanted  # every metric of every step, to the last bit


def test_the_last_checkpoint_is_that_of_a_run_never_interrupted(finished, interrupted):
  folders = [workdir / "checkpoints" for workdir in (finished, interrupted)]
  wanted, got = (checkpoint.load_extra(folder, 20) for folder in folders)
  assert got == wanted and wanted["data"]["next_row"] == 4 * sum_of_ramp()
  for part in ("params", "opt_state", "variables"):
    wanted, got = (checkpoint.load_params(folder, 20, subtree=part) for folder in folders)
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


def sum_of_ramp() -> int:
  """Micro-batches of all steps: 1 for the first eight steps, then 2."""
  return 8 * 1 + 12 * 2


def test_a_finished_run_says_so_and_does_nothing(command, finished):
  before = {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.name != "config.json"}
  before = {p: t for p, t in before.items() if p.is_file()}
  again = command.train(finished)
  assert again.returncode == 0, again.stderr
  assert "is finished: step 20 of 20" in again.stdout
  assert before == {p: p.stat().st_mtime_ns for p in before}


def test_a_run_leaves_its_table_and_its_figures(finished):
  assert (finished / "family.json").stat().st_size > 0
  assert (finished / "report.png").stat().st_size > 0
