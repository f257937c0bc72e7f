"""Peaks by device name, and a CPU's by measurement."""

import time

import jax
import jax.numpy as jnp
import pytest

from ernie_jax.train import hardware


@pytest.mark.parametrize(
  ("kind", "dtype", "peak"),
  [
    ("TPU v4", "bfloat16", 275e12),
    ("TPU v5 lite", "bfloat16", 197e12),
    ("TPU v5", "bfloat16", 459e12),
    ("TPU v5p", "bfloat16", 459e12),
    ("TPU v6 lite", "bfloat16", 918e12),
    ("TPU7x", "bfloat16", 1153.5e12),
    ("NVIDIA H100 80GB HBM3", "bfloat16", 989e12),
    ("NVIDIA H100 PCIe", "bfloat16", 756e12),
    ("NVIDIA H200", "float32", 494e12),
    ("NVIDIA A100-SXM4-40GB", "float32", 156e12),
    ("NVIDIA GeForce GTX 1080", "bfloat16", None),
  ],
)
def test_peak_of_known_devices(kind, dtype, peak):
  assert hardware.device_peak(kind, dtype) == peak


def test_a_cpu_is_measured_once_and_about_right():
  peak = hardware.peak_flops()
  start = time.perf_counter()
  assert hardware.peak_flops() == peak
  assert time.perf_counter() - start < 0.05
  x = jnp.ones((512, 512))
  product = jax.jit(jnp.dot)
  product(x, x).block_until_ready()
  start = time.perf_counter()
  product(x, x).block_until_ready()
  rate = 2 * 512**3 / (time.perf_counter() - start)
  assert 0.01 < rate / peak < 10
