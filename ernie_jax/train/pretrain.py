"""Pre-training: the unified model on rows, the whole elastic family in one backward pass.

Letters: B rows, L positions, N layers, E experts.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ernie_jax.backbone.config import ModelConfig
from ernie_jax.backbone.inputs import LayerStats
from ernie_jax.backbone.router import update_bias
from ernie_jax.elastic.family import ElasticConfig, sample
from ernie_jax.model import UnifiedModel, initial_bias
from ernie_jax.objectives.text import text_loss
from ernie_jax.sequence.row import Row, empty_row
from ernie_jax.train.task import Loss

USAGE_DECAY = (
  0.99  # about the last hundred steps: long enough to rank experts, short enough to follow
)


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
  """Weights of the training objective.

  Attributes:
    mtp_weight: weight of multi-token prediction before `mtp_switch` (report: 0.3).
    mtp_final_weight: after it (report: 0.1, in mid-training).
    mtp_switch: the step of the change; at or past the last step it never comes.
  """

  mtp_weight: float = 0.3
  mtp_final_weight: float = 0.1
  mtp_switch: int = 1 << 30


@flax.struct.dataclass
class RouterState:
  """Router state outside the parameters.

  Attributes:
    bias: float32 [N, E], selection-only balancing bias.
    usage: float32 [N, E], moving average of each expert's share of its layer's assignments by rows
      that ran the full configuration; slicing keeps the most used experts.
  """

  bias: Float[Array, "N E"]
  usage: Float[Array, "N E"]


def initial_router_state(model: ModelConfig) -> RouterState:
  """Before training: no bias, equal use."""
  usage = jnp.full((model.depth, model.experts), 1 / model.experts, jnp.float32)
  return RouterState(bias=initial_bias(model), usage=usage)


class Pretrain:
  """The `Task` of pre-training, continued training and specialists (an ElasticConfig of ones)."""

  def __init__(self, model: ModelConfig, elastic: ElasticConfig, objective: ObjectiveConfig):
    self.config, self.elastic, self.objective = model, elastic, objective
    self.model = UnifiedModel(model)

  def init(self, key: Array) -> tuple[Any, RouterState]:
    """Boxed parameters and the router state."""
    row = jax.tree.map(lambda x: np.asarray(x)[None], empty_row(8))
    params = self.model.init(key, row, initial_bias(self.config))["params"]
    return params, initial_router_state(self.config)

  def loss(self, params: Any, variables: RouterState, batch: Row, key: Array, step: Array) -> Loss:
    """Text loss, MTP and the router's auxiliary losses of one micro-batch of rows [B, L]."""
    c = self.config
    active = None
    if self.elastic.trains_family:
      active = sample(key, batch.kind.shape[0], elastic=self.elastic, model=c)
    output = self.model.apply({"params": params}, batch, variables.bias, active)
    text = text_loss(output, batch, params, c)
    total = text.next_token
    metrics = {"loss/text": text.next_token, **balance_metrics(output.stats, c)}
    if c.mtp_depth:
      o = self.objective
      weight = jnp.where(step < o.mtp_switch, o.mtp_weight, o.mtp_final_weight)
      total += weight * text.further.mean()
      metrics |= {"loss/mtp": text.further.mean(), "mtp_weight": weight}
    for name in ("balance_loss", "z_loss"):
      if weight := getattr(c.router, name):
        value = getattr(output.stats, name)[c.dense_layers :].mean()
        total += weight * value
        metrics[f"router/{name}"] = value
    counts = {"load": output.stats.load, "tokens": text.tokens}
    return Loss(loss=total, metrics=metrics, counts=counts)

  def update(self, variables: RouterState, counts: Any, step: Array) -> RouterState:
    """Moves the bias towards balance and the measured use towards this step's."""
    load = counts["load"]
    total = load.sum(-1, keepdims=True)
    share = load / jnp.maximum(total, 1.0)
    usage = USAGE_DECAY * variables.usage + (1 - USAGE_DECAY) * share
    return RouterState(
      bias=update_bias(variables.bias, load, rate=self.config.router.bias_rate),
      usage=jnp.where(total > 0, usage, variables.usage),
    )


def balance_metrics(stats: LayerStats, model: ModelConfig) -> dict[str, Float[Array, "N"]]:
  """Load balance of every MoE layer, over all rows: 1, 1 and 0 are perfect.

  `router/max_over_mean`; `router/entropy`, -sum p log p / log E; `router/dead`, experts without any
  token.
  """
  load = jax.lax.stop_gradient(stats.load_all)[model.dense_layers :]
  if not load.size:
    return {}
  share = load / jnp.maximum(load.sum(-1, keepdims=True), 1.0)
  entropy = -jnp.sum(share * jnp.log(jnp.maximum(share, 1e-20)), axis=-1)
  return {
    "router/max_over_mean": share.max(-1) * model.experts,
    "router/entropy": entropy / np.log(max(2, model.experts)),
    "router/dead": (load == 0).sum(-1).astype(jnp.float32),
  }


def unboxed_params(model: ModelConfig, key: Array) -> Any:
  """Fresh parameters without logical axis names, for tests and tools that need no mesh."""
  task = Pretrain(
    model, ElasticConfig(depth_full=1.0, width_full=1.0, sparsity_full=1.0), ObjectiveConfig()
  )
  return nn.unbox(jax.jit(task.init)(key)[0])
