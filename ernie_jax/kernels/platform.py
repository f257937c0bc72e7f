"""Which platform traced code is for."""

import jax


def platform() -> str:
  """One of cpu, gpu and tpu: that of the entered mesh, which may be one that is only compiled for; else JAX's default."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  return jax.default_backend() if device is None else device.platform
