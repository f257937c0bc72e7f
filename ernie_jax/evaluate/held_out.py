"""Held-out loss and bits per byte of a model or of a member of its family.

Members are run as masks on the full model (`elastic.family.activate`): the masks are inputs, so one
compilation serves the whole family, layers that are passed by cost nothing, and no token goes to an expert
that is masked. A sliced member has the same outputs but would be compiled anew.

Letters: B rows, L positions, N layers, E experts.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from ernie_jax.backbone.config import ModelConfig
from ernie_jax.backbone.inputs import Active
from ernie_jax.data.held_out import HeldOut
from ernie_jax.data.mixture import stack_rows
from ernie_jax.model import UnifiedModel, head_kernel
from ernie_jax.objectives.cross_entropy import token_losses
from ernie_jax.sequence.row import Row, empty_row
from ernie_jax.sharding.distributed import fetch
from ernie_jax.sharding.mesh import BATCH_AXES, active_mesh

BATCH_TOKENS = (
  8192  # positions of one call: enough to fill a CPU's cores, little next to the weights
)


@dataclasses.dataclass(frozen=True)
class Score:
  """What predicting some text cost.

  Attributes:
    nats: -log probability of all targets, by their weights.
    tokens: total weight of the targets (with the end of each file, see `data.held_out.HeldOut`).
    utf8_bytes: size of the text that the targets spell.
  """

  nats: float
  tokens: float
  utf8_bytes: int

  @property
  def loss(self) -> float:
    """Nats per token."""
    return self.nats / self.tokens

  @property
  def bits_per_byte(self) -> float:
    """Bits per UTF-8 byte: comparable between tokenizers, and with compressors."""
    return self.nats / math.log(2) / self.utf8_bytes


def score(
  params: Any,
  bias: Float[Array, "N E"],
  held_out: Sequence[HeldOut],
  *,
  model: ModelConfig,
  active: Active | None = None,
) -> Score:
  """The score of one model on all of `held_out` together, under the mesh that is entered, if one is.

  With several processes all must call it, with the same arguments.

  Args:
    params: on the device already, if it is called more than once.
    bias: the routers' bias.
    held_out: rows of equal length, and their text.
    model: the config of `params`.
    active: which part of the network runs, for all rows alike; None is all of it.
  """
  nats = tokens = 0.0
  for one in held_out:
    for rows in _batches(one.rows):
      losses = fetch(_losses(params, bias, rows, active, model)).astype(np.float64)
      weight = rows.text_weight.astype(np.float64)
      nats += float(np.sum(losses * weight, where=weight > 0))
      tokens += float(weight.sum())
  return Score(nats=nats, tokens=tokens, utf8_bytes=sum(h.utf8_bytes for h in held_out))


def on_device(tree: Any) -> Any:
  """`tree` on one device, committed to it as the state of a run is: what scored that run is then not compiled anew."""
  return jax.device_put(tree, jax.local_devices()[0])


@functools.partial(jax.jit, static_argnames="model")
def _losses(
  params, bias, rows: Row, active: Active | None, model: ModelConfig
) -> Float[Array, "B L"]:
  output = UnifiedModel(model).apply({"params": params}, rows, bias, active)
  return token_losses(output.hidden, head_kernel(params, model), rows.target)


def _batches(rows: Row):
  """Batches of one shape, so of one compilation, that the mesh divides; filled up with padding rows."""
  count, length = rows.kind.shape
  mesh = active_mesh()
  shards = 1 if mesh is None else math.prod(mesh.shape[axis] for axis in BATCH_AXES)
  size = -(-max(1, BATCH_TOKENS // length) // shards) * shards
  for start in range(0, count, size):
    batch = jax.tree.map(lambda x, s=start: x[s : s + size], rows)
    missing = size - batch.kind.shape[0]
    if missing:
      filling = stack_rows([empty_row(length)] * missing)
      batch = jax.tree.map(lambda x, y: np.concatenate([x, y]), batch, filling)
    yield batch
