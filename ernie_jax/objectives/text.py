"""The text objective: next token, plus multi-token prediction (ERNIE 5.0, sections 1 and 2).

Letters: B rows, L positions, D width, M MTP modules.
"""

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float

from ernie_jax.backbone.config import ModelConfig
from ernie_jax.model import Output, head_kernel
from ernie_jax.objectives.cross_entropy import cross_entropy_sum
from ernie_jax.sequence.row import Kind, Row


@flax.struct.dataclass
class TextLoss:
  """Mean losses in nats per predicted token.

  Attributes:
    next_token: float32 [].
    further: float32 [M], one for each MTP module.
    tokens: float32 [], total weight of the next-token targets.
  """

  next_token: Float[Array, ""]
  further: Float[Array, "M"]
  tokens: Float[Array, ""]


def text_loss(output: Output, row: Row, params: dict, config: ModelConfig) -> TextLoss:
  """Next-token and MTP losses of a batch of rows, all with the one text head."""
  kernel = head_kernel(params, config)
  mean = lambda hidden, target, weight: (
    cross_entropy_sum(hidden, kernel, target, weight) / jnp.maximum(weight.sum(), 1.0)
  )
  further = [mean(hidden, *further_targets(row, m + 1)) for m, hidden in enumerate(output.mtp)]
  return TextLoss(
    next_token=mean(output.hidden, row.target, row.text_weight),
    further=jnp.stack(further) if further else jnp.zeros((0,), jnp.float32),
    tokens=row.text_weight.sum(),
  )


def further_targets(row: Row, ahead: int) -> tuple[Float[Array, "B L"], Float[Array, "B L"]]:
  """Target and weight of predicting the text `ahead` tokens past the next one.

  Position i may predict position i + ahead's target only if the same example reaches there by text
  alone: every position between is a text token that was itself the target of the one before.
  """
  shift = lambda x, by: jnp.pad(x[:, by:], ((0, 0), (0, by)))
  weight = row.text_weight
  for step in range(1, ahead + 1):
    follows = (
      (shift(row.example, step) == row.example)
      & (shift(row.kind, step) == Kind.TEXT)
      & (shift(row.token, step) == shift(row.target, step - 1))
      & (shift(row.text_weight, step) > 0)
    )
    weight = weight * follows
  return shift(row.target, ahead), weight
