"""Blocks of positions for a key-value cache, and parameters arranged for decoding.

Letters: B rows, L positions, N layers.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ernie_jax.backbone.config import ModelConfig
from ernie_jax.backbone.parameters import join_layers, split_layers
from ernie_jax.sequence.row import Kind, Row


@flax.struct.dataclass
class Weights:
  """A model's parameters as `decoding_config` stores them, and its routers' bias [N, E].

  With vision, `tokenizer` has the parameters of the visual tokenizer; with audio, `codec` has the
  parameters and the vectors of the codec.
  """

  params: Any
  bias: Float[Array, "N E"]
  tokenizer: Any = None
  codec: Any = None


def decoding_config(config: ModelConfig) -> ModelConfig:
  """The same model with every layer unrolled and without its MTP modules, which only train.

  A scan reads layer n of the stacked kernels as a slice, which XLA copies: for one token that is a copy
  of all experts, several times the work of the token itself.
  """
  return dataclasses.replace(config, top_layers=config.depth, mtp_depth=0, remat="none")


def decoding_weights(params: Any, bias: Float[Array, "N E"], config: ModelConfig) -> Weights:
  """Parameters of `config`'s model as those of `decoding_config(config)`, in its compute type.

  Norms and routers stay float32, as they are computed; casting the rest once gives what casting them
  for every token would.
  """
  kept = {name: tree for name, tree in params.items() if not name.startswith("mtp_")}
  layers = split_layers(kept["stack"], config)
  kept["stack"] = join_layers(layers, decoding_config(config))

  def cast(path, leaf):
    names = {part.key for part in path}
    # The understanding path has its own compute type.
    return leaf if names & {"scale", "router", "understand"} else leaf.astype(config.dtype)

  return Weights(
    params=jax.tree_util.tree_map_with_path(cast, kept), bias=jnp.asarray(bias, jnp.float32)
  )


def text_block(
  token: Int[Array, "B L"],
  position: Int[Array, "B L"],
  live: Bool[Array, "B L"],
  *,
  group: Int[Array, "B L"] | None = None,
) -> Row:
  """Text at consecutive positions, each its own group; what is not live is padding.

  `position` counts a row's live positions from 0, so padding on the left moves nothing. `group` is
  the same where the row has been text alone (None); after media both count on from their own number.
  """
  group = position if group is None else group
  number = jnp.where(live, 1, 0).astype(jnp.int32)
  position = jnp.where(live, position, 0).astype(jnp.int32)
  zeros = jnp.zeros_like(position)
  weightless = jnp.zeros(position.shape, jnp.float32)
  return Row(
    kind=number * int(Kind.TEXT),
    token=jnp.where(live, token, 0).astype(jnp.int32),
    position=jnp.repeat(position[..., None].astype(jnp.float32), 3, axis=-1),
    group=jnp.where(live, group, 0).astype(jnp.int32),
    example=number,
    hidden_from=zeros,
    hidden_to=zeros,
    media_slot=zeros - 1,
    media_element=zeros,
    target=zeros,
    text_weight=weightless,
    media_weight=weightless,
  )


def pad_left(prompts: Sequence[Sequence[int]], length: int) -> Int[np.ndarray, "B L"]:
  """Prompts as the right ends of rows of `length` ids; zeros stand on the left."""
  tokens = np.zeros((len(prompts), length), np.int32)
  for row, prompt in zip(tokens, prompts):
    row[length - len(prompt) :] = prompt
  return tokens
