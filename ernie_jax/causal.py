"""What the causal codecs share: a norm that mixes no positions in time, and state between parts.

A codec reads a video or a clip part by part exactly as if whole. What a layer needs of the part before is in
the collection "stream", which each layer writes when it is mutable; the first part has none.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@flax.struct.dataclass
class Chunk:
  """A part of a video or a clip and what the next part needs.

  Attributes:
    value: the latent, the pixels or the sound of this part.
    stream: to be given to the next call.
  """

  value: Array
  stream: Any


class Norm(nn.Module):
  """RMS norm over the channels of each position, with a learned scale: nothing is normalised over time."""

  @nn.compact
  def __call__(self, x: Float[Array, "*n C"]) -> Float[Array, "*n C"]:
    init = nn.with_logical_partitioning(nn.initializers.ones_init(), ("norm",))
    return rms_normalised(x) * self.param("scale", init, (x.shape[-1],), jnp.float32)


def rms_normalised(x: Float[Array, "*n C"]) -> Float[Array, "*n C"]:
  """x / rms(x) over the last axis."""
  return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)


def carried(module: nn.Module, name: str) -> Array | None:
  """What this module left for the next part; None in the first part."""
  return module.get_variable("stream", name) if module.has_variable("stream", name) else None


def carry(module: nn.Module, name: str, value: Array) -> None:
  """Leaves a value for the next part, where parts are asked for."""
  if module.is_mutable_collection("stream") and not module.is_initializing():
    module.put_variable("stream", name, value)


def run_chunk(model: nn.Module, params: Any, stream: Any, method: Callable[[Any], Array]) -> Chunk:
  """What `method` makes of the bound model in the part after `stream`; None: the first part."""
  variables = {"params": params} | ({} if stream is None else {"stream": stream})
  value, new = model.apply(variables, method=method, mutable=["stream"])
  return Chunk(value=value, stream=new["stream"])
