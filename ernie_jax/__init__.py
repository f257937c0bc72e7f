"""ernie_jax: the system of the ERNIE 5.0 report in JAX, from tokenizers to reinforcement learning.

Importing it sets what jax reads from the environment when it is first imported, where the user has
not set it, so that a machine without an accelerator starts quietly.
"""

import glob
import importlib.util
import os


def _quiet_start() -> None:
  # Loading a compiled CPU program from the compilation cache prints a screenful about machine
  # features at the default level.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  # The TPU compiler, installed for ahead-of-time tests, looks for its TPU and complains at length.
  # Without a TPU's device file or another vendor's plug-in only the CPU can be meant.
  tpu = glob.glob("/dev/accel*") or glob.glob("/dev/vfio/*")
  if not tpu and importlib.util.find_spec("jax_plugins") is None:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")


_quiet_start()
