"""Cutting a member out of the family: fewer layers, fewer experts, a smaller k, the same outputs.

Letters: N layers, E experts.
"""

import dataclasses
from typing import Any

import flax.struct
import jax
import numpy as np
from jaxtyping import Array, Float

from ernie_jax.backbone.config import ModelConfig
from ernie_jax.backbone.parameters import join_layers, split_layers
from ernie_jax.elastic.family import ElasticConfig, Member, kept_layers, used_experts


@flax.struct.dataclass
class Sliced:
  """An ordinary, smaller model.

  Attributes:
    params: its parameters.
    bias, usage: float32 [N', E'], its routers' bias and measured use.
    model: its config.
  """

  params: Any
  bias: Float[Array, "n e"]
  usage: Float[Array, "n e"]
  model: ModelConfig = flax.struct.field(pytree_node=False)


def member_config(member: Member, *, elastic: ElasticConfig, model: ModelConfig) -> ModelConfig:
  """The config of the smaller model that `member` names."""
  keep = kept_layers(member.depth, elastic, model)
  return dataclasses.replace(
    model,
    depth=member.depth,
    dense_layers=int(keep[: model.dense_layers].sum()),
    experts=member.experts,
    top_k=member.top_k,
  )


def slice_params(
  params: Any,
  bias: Float[Array, "N E"],
  usage: Float[Array, "N E"],
  member: Member,
  *,
  elastic: ElasticConfig,
  model: ModelConfig,
) -> Sliced:
  """The member's own parameters, whose outputs equal those of the full model under `activate`.

  Each layer keeps the experts that training used most (`usage`), in their order; the router loses
  the other columns. Our choice: the report samples experts at random and does not say which a
  released sub-model keeps.
  """
  smaller = member_config(member, elastic=elastic, model=model)
  depth_kept = np.flatnonzero(kept_layers(member.depth, elastic, model))
  chosen = used_experts(usage, member.experts)
  bias, usage = np.asarray(bias), np.asarray(usage)
  layers = split_layers(params["stack"], model)
  kept = [_slice_layer(layers[n], np.flatnonzero(chosen[n])) for n in depth_kept]
  pick = lambda a: np.stack([a[n][chosen[n]] for n in depth_kept])
  return Sliced(
    params={**params, "stack": join_layers(kept, smaller)},
    bias=pick(bias),
    usage=pick(usage),
    model=smaller,
  )


def _slice_layer(layer: dict[str, Any], experts: np.ndarray) -> dict[str, Any]:
  """One layer with only the given experts; a dense layer as it is."""
  if "moe" not in layer:
    return layer
  moe = dict(layer["moe"])
  moe["router"] = {"kernel": moe["router"]["kernel"][:, experts]}
  moe["experts"] = jax.tree.map(lambda w: w[experts], moe["experts"])
  return {**layer, "moe": moe}
