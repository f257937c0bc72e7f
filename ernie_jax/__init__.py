"""ernie_jax: the system of the ERNIE 5.0 report in JAX, from tokenizers to reinforcement learning."""

import os

# Read by jaxlib when it is first imported, which is why it is set here. At its default, loading a
# compiled CPU program from the compilation cache prints a screenful about machine features.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
