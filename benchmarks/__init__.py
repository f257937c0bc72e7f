"""Measurements, run by hand as `python -m benchmarks.NAME`; the tests never time anything."""

import ernie_jax  # noqa: F401  (sets the environment before JAX starts)
