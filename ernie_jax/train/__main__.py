"""Trains an experiment, from its data to its report.

  python -m ernie_jax.train --config=experiments/NAME.py[:arg] --workdir=DIR [--config.key=value ...]

A config says in `stage` what is trained; without it, that is the unified model, from its text to the table
of its family: text tokenizer, data, training, evaluation. A `pipeline` is several stages, each in its own folder of
the workdir; --only=NAME runs some of them, --force=NAME some of them again. What is finished is not done again: the
same command resumes after any interruption, and says so when everything is done.
"""

import pathlib
import shlex
import sys

from absl import flags
from ml_collections import config_flags

from ernie_jax import cli
from ernie_jax.errors import UserError

CONFIG = config_flags.DEFINE_config_file(
  "config", None, "Config file, as experiments/NAME.py[:arg]."
)
WORKDIR = flags.DEFINE_string(
  "workdir", None, "Where checkpoints, metrics and reports go.", allow_override=True
)
COORDINATOR = flags.DEFINE_string(
  "coordinator", None, "Address of process 0 in a run of several processes, or 'auto'."
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes of the run.")
ONLY = flags.DEFINE_list("only", [], "Stages of a pipeline to run, and no others.")
FORCE = flags.DEFINE_list("force", [], "Stages of a pipeline to run again, finished or not.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this process.")


def main(argv) -> int:
  """Runs every stage; the exit status is 0 also after a SIGTERM that was answered with a checkpoint."""
  del argv
  from ernie_jax.sharding import distributed, mesh
  from ernie_jax.train import stages
  from ernie_jax.train.loop import Stopped

  values = cli.require(CONFIG, example="experiments/quickstart.py")
  workdir = pathlib.Path(cli.require(WORKDIR, example="runs/quickstart"))
  stage = stages.stage_of(values)
  experiment = stage.build(values)
  if experiment.mesh.quick_compile:
    mesh.compile_quickly()
  if experiment.mesh.simulated_devices:
    mesh.simulate_devices(experiment.mesh.simulated_devices)
  else:
    mesh.split_cpu(experiment.mesh.cpu_split)
  distributed.initialize(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
  chosen = {name: flag.value for name, flag in (("only", ONLY), ("force", FORCE)) if flag.value}
  if chosen and values.get("stage") != "pipeline":
    raise UserError(f"--{next(iter(chosen))}: the config is of one stage, not of a pipeline")
  try:
    stage.run(experiment, workdir, **chosen)
  except Stopped as e:
    # With --force a stage would begin again, and what was just saved be set aside.
    again = shlex.join(
      ["python", "-m", "ernie_jax.train", *cli.without_flag(sys.argv[1:], "force")]
    )
    print(f"stopped by SIGTERM after step {e.args[0]}, which is saved; to go on: {again}")
  return 0


if __name__ == "__main__":
  cli.run(main)
