"""Two processes started as a user starts them train what one process with two devices trains."""

import socket
import subprocess
import sys

import numpy as np

from ernie_jax.train.metrics import read_metrics


def two_processes(command, workdir, *arguments) -> list[subprocess.CompletedProcess]:
  """The training command in two processes of one run."""
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{s.getsockname()[1]}"
  flags = [f"--config={command.config}", f"--workdir={workdir}", *arguments]
  flags += [f"--coordinator={address}", "--num_processes=2"]
  started = [
    subprocess.Popen(
      [sys.executable, "-m", "ernie_jax.train", *flags, f"--process_id={index}"],
      env=command.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )
    for index in range(2)
  ]  # fmt: skip
  try:
    outputs = [p.communicate(timeout=280) for p in started]
  finally:
    for p in started:
      p.kill()
  return [
    subprocess.CompletedProcess(p.args, p.returncode, *output)
    for p, output in zip(started, outputs)
  ]


def losses(workdir) -> dict[int, float]:
  return {line["step"]: line["loss"] for line in read_metrics(workdir)}


def test_two_processes_train_what_two_devices_train_and_both_end_well(command, tmp_path):
  mesh = ("--config.mesh.data=2", "--config.train.optimizer.name=muon")
  for done in two_processes(command, tmp_path / "two", *mesh):
    assert done.returncode == 0, done.stderr[-3000:]
  assert (tmp_path / "two" / "report.png").exists()
  alone = command.train(tmp_path / "one", *mesh, "--config.mesh.simulated_devices=2")
  assert alone.returncode == 0, alone.stderr[-3000:]
  found, wanted = losses(tmp_path / "two"), losses(tmp_path / "one")
  assert found.keys() == wanted.keys() and len(wanted) == 20
  np.testing.assert_allclose(list(found.values()), list(wanted.values()), rtol=1e-5)
