"""The text objective: next token, plus multi-token prediction (ERNIE 5.0, sections 1 and 2).

Letters: B rows, L positions, D width, M MTP modules.
"""

from collections.abc import Mapping

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ernie_jax.backbone.config import ModelConfig
from ernie_jax.model import Output, head_kernel
from ernie_jax.objectives.cross_entropy import cross_entropy_sum, sum_and_losses
from ernie_jax.sequence.row import Kind, Row

KINDS = ("text", "understanding")  # text alone, and text of examples that have media


@flax.struct.dataclass
class TextLoss:
  """Losses in nats per predicted token.

  Attributes:
    weighed: float32 [], the mean of each of `KINDS` times its weight, added up. It alone has a gradient.
    means: float32 by kind, the mean next-token loss; 0 where there is none of it.
    tokens: float32 by kind, total weight of the next-token targets.
    further: float32 [M], the mean of each MTP module over both kinds; it has a gradient too.
  """

  weighed: Float[Array, ""]
  means: dict[str, Float[Array, ""]]
  tokens: dict[str, Float[Array, ""]]
  further: Float[Array, "M"]


def text_loss(
  output: Output,
  row: Row,
  params: dict,
  config: ModelConfig,
  weights: Mapping[str, float | Array] | None = None,
) -> TextLoss:
  """Next-token and MTP losses of a batch of rows, all with the one text head.

  Text alone and what is told about media have each a mean and a weight, which is our choice. A row of a program
  holds hundreds of targets, an answer about a picture one or two, and with one weight for both colours stayed
  unlearnt beside programs (docs/vision.md). A mean is over what is predicted, not over all positions of text as in ERNIE
  4.5 and the report: how much is given beside it would else decide how much an answer counts.

  Args:
    output: of the model on `row`.
    row: a batch of rows.
    params, config: the model's.
    weights: of the kinds, which no gradient reaches; None: 1 for each.
  """
  kernel = head_kernel(params, config)
  weights = dict.fromkeys(KINDS, 1.0) if weights is None else weights
  told = _has_media(row)
  own = {"text": jnp.where(told, 0.0, row.text_weight), "understanding": row.text_weight * told}
  tokens = {kind: own[kind].sum() for kind in KINDS}
  share = {kind: own[kind] / jnp.maximum(tokens[kind], 1.0) for kind in KINDS}
  weighed, losses = sum_and_losses(
    output.hidden, kernel, row.target, sum(weights[kind] * share[kind] for kind in KINDS)
  )
  further = []
  for m, hidden in enumerate(output.mtp):
    target, weight = further_targets(row, m + 1)
    further.append(
      cross_entropy_sum(hidden, kernel, target, weight) / jnp.maximum(weight.sum(), 1.0)
    )
  return TextLoss(
    weighed=weighed,
    means={kind: jnp.sum(jax.lax.stop_gradient(losses) * share[kind]) for kind in KINDS},
    tokens=tokens,
    further=jnp.stack(further) if further else jnp.zeros((0,), jnp.float32),
  )


def _has_media(row: Row) -> Bool[Array, "B L"]:
  """Whether a position's example has any position that is no text."""
  other = (row.kind != Kind.TEXT) & (row.kind != Kind.PAD)
  segments = row.kind.shape[1] + 1  # examples count from 1
  of_row = lambda example, other: jax.ops.segment_max(
    other.astype(jnp.int32), example, num_segments=segments
  )[example]
  return jax.vmap(of_row)(row.example, other) > 0


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
