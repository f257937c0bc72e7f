"""All layers, bottom to top: scanned where they are equal, unrolled at the top.

Letters: N layers, B rows, L positions, D width, E experts.
The top layers are unrolled because audio heads sit between them and feed their codes back into the
hidden state (ERNIE 5.0, section 4); elastic depth never drops them.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ernie_jax.backbone.block import REMAT_POLICIES, Block, Carry, LayerInputs
from ernie_jax.backbone.config import ModelConfig, Segment
from ernie_jax.backbone.inputs import Active, Cache, Context, LayerStats


class Stack(nn.Module):
  """The layers of `ModelConfig.segments`, without embedding and final norm."""

  config: ModelConfig

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "B L D"],
    bias: Float[Array, "N E"],
    active: Active | None,
    context: Context,
    cache: Cache | None = None,
    between: Callable[[int, Float[Array, "B L D"]], Float[Array, "B L D"]] | None = None,
  ) -> tuple[Carry, LayerStats]:
    """Runs the layers.

    `between` takes how many layers have run and the hidden state, and gives the state for the next
    layer: after each unrolled layer, and after a scan.
    """
    layers = LayerInputs(
      number=jnp.arange(self.config.depth),
      bias=bias,
      runs=None if active is None else active.layers,
      experts=None if active is None else active.experts,
    )
    carry, stats = Carry(x=x, cache=cache), []
    for segment in self.config.segments():
      one = jax.tree.map(lambda a, s=segment: a[s.start : s.stop], layers)
      carry, reported = self._segment(segment, carry, one, context)
      stats.append(reported)
      if between is not None:
        carry = carry.replace(x=between(segment.stop, carry.x))
    return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts), *stats)

  def _segment(self, segment: Segment, carry: Carry, layers: LayerInputs, context: Context):
    block = Block
    if self.config.remat != "none":
      # Inside a scan the loop itself keeps XLA from merging the recomputation with the forward pass.
      inside_scan = segment.stacked and self.config.scan
      policy = REMAT_POLICIES[self.config.remat]
      block = nn.remat(Block, policy=policy, prevent_cse=not inside_scan)
    if not segment.stacked:
      first = jax.tree.map(lambda a: a[0], layers)
      carry, stats = block(self.config, moe=segment.moe, name=segment.name)(carry, first, context)
      return carry, jax.tree.map(lambda a: a[None], stats)
    scanned = nn.scan(
      block,
      variable_axes={"params": 0, "intermediates": 0},  # the second when a caller captures them
      split_rngs={"params": True},
      in_axes=(0, nn.broadcast),
      length=segment.length,
      unroll=1 if self.config.scan else segment.length,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )
    return scanned(self.config, moe=segment.moe, name=segment.name)(carry, layers, context)
