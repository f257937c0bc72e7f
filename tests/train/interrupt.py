"""Runs `python -m ernie_jax.train` and interrupts it: the arguments are WHAT and STEP, then its own.

WHAT is `kill` (SIGKILL once the line of STEP is in metrics.jsonl), `kill_saving` (SIGKILL while the
checkpoint of STEP has only its temporary name) or `terminate` (SIGTERM instead of the first).
"""

import os
import runpy
import signal
import sys
import threading

from ernie_jax.train.checkpoint import Checkpoints
from ernie_jax.train.metrics import MetricsWriter

what, at = sys.argv[1], int(sys.argv[2])
del sys.argv[1:3]
write, save = MetricsWriter.write, Checkpoints.save
opened = []


def write_and_interrupt(self, step, values):
  write(self, step, values)
  if step == at and what != "kill_saving":
    for checkpoints in opened:
      checkpoints.wait()  # tiny steps are quicker than the save before them
    os.kill(os.getpid(), signal.SIGKILL if what == "kill" else signal.SIGTERM)


def save_and_interrupt(self, step, *arguments):
  opened[:] = [self]
  if step == at and what == "kill_saving":
    sys.setswitchinterval(1e-5)
    threading.Thread(target=kill_when_begun, args=(self.directory,), daemon=True).start()
  return save(self, step, *arguments)


def kill_when_begun(directory):
  while not any("orbax-checkpoint-tmp" in name for name in os.listdir(directory)):
    pass
  os.kill(os.getpid(), signal.SIGKILL)


MetricsWriter.write, Checkpoints.save = write_and_interrupt, save_and_interrupt
runpy.run_module("ernie_jax.train", run_name="__main__", alter_sys=True)
