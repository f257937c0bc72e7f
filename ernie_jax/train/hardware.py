"""Peak matrix-multiply rate of the devices at hand, for utilisation.

Sources: TPU v4, v5e, v5p, v6e and tpu7x from Google Cloud's pages of each version (v5p 459, v6e 918 and
tpu7x 2307 TFLOP/s are also the peaks that MaxText's published utilisations are divided by; we have
not measured them); A100, H100 and H200 from NVIDIA's datasheets, dense, without sparsity. A CPU has
no useful datasheet figure, so it is measured once.

float32 figures are those of what jax does by default with float32 matrices: one bfloat16 pass on TPU,
TF32 on NVIDIA's tensor cores.
"""

import functools
import os
import time

import jax
import jax.numpy as jnp

# Part of `Device.device_kind`, lower case; bfloat16 and float32 FLOP/s of one device. The first match
# counts, so the more special name comes first.
_PEAKS = (
  ("tpu7x", 2307e12 / 2, 2307e12 / 2),  # jax shows the two cores of a chip as two devices
  ("tpu v6 lite", 918e12, 918e12),
  ("tpu v6e", 918e12, 918e12),
  ("tpu v5 lite", 197e12, 197e12),
  ("tpu v5e", 197e12, 197e12),
  ("tpu v5p", 459e12, 459e12),
  ("tpu v5", 459e12, 459e12),
  ("tpu v4", 275e12, 275e12),
  ("h200", 989e12, 494e12),
  ("h100 pcie", 756e12, 378e12),
  ("h100", 989e12, 494e12),
  ("a100", 312e12, 156e12),
)


def device_peak(kind: str, dtype: str = "bfloat16") -> float | None:
  """FLOP/s of one accelerator whose `device_kind` is `kind`; None for one not in the table."""
  for name, bfloat16, float32 in _PEAKS:
    if name in kind.lower():
      return float32 if dtype == "float32" else bfloat16
  return None


def machine() -> str:
  """The devices of this run and the processors of this host, for people."""
  devices = jax.devices()
  cores = f"{os.cpu_count()} CPU cores"
  if devices[0].platform == "cpu":
    return cores if jax.process_count() == 1 else f"{jax.process_count()} hosts of {cores}"
  return f"{len(devices)} x {devices[0].device_kind}, {cores} a host"


def peak_flops(dtype: str = "bfloat16") -> float | None:
  """FLOP/s of all devices of this run together, or None if they are unknown.

  Simulated CPU devices share the cores of their host, so a host counts once however many it shows.
  The first call on a CPU takes about 0.3 s.
  """
  devices = jax.devices()
  if devices[0].platform == "cpu":
    return measured_cpu_peak() * jax.process_count()
  peak = device_peak(devices[0].device_kind, dtype)
  return None if peak is None else peak * len(devices)


@functools.cache
def measured_cpu_peak(seconds: float = 0.25, size: int = 768) -> float:
  """FLOP/s of this host: the best float32 product of two size x size matrices within `seconds`."""
  device = jax.local_devices(backend="cpu")[0]
  x = jax.device_put(jnp.ones((size, size), jnp.float32), device)
  product = jax.jit(jnp.dot)
  product(x, x).block_until_ready()
  best, end = float("inf"), time.perf_counter() + seconds
  while (start := time.perf_counter()) < end:
    product(x, x).block_until_ready()
    best = min(best, time.perf_counter() - start)
  return 2 * size**3 / best
