"""The objective of sound: the code of each level of the next frame, or the end (ERNIE 5.0, section 4).

Letters: B rows, L positions, R levels, V codes of a level.
"""

from collections.abc import Sequence

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ernie_jax.backbone.config import ModelConfig
from ernie_jax.model import Output
from ernie_jax.objectives.cross_entropy import cross_entropy_sum
from ernie_jax.sequence.row import Row
from ernie_jax.sequence.sound import predicts_audio


@flax.struct.dataclass
class AudioLoss:
  """How well codes are predicted.

  Attributes:
    codes: float32 [], nats per code, weighted mean over levels and frames; the end is a code.
    by_level: float32 [R], the same for each level.
    frames: float32 [], total weight of the positions that predict a frame or the end.
  """

  codes: Float[Array, ""]
  by_level: Float[Array, " R"]
  frames: Float[Array, ""]


def audio_loss(
  output: Output,
  row: Row,
  codes: Int[Array, "B L R"],
  params: dict,
  config: ModelConfig,
  *,
  level_weights: Sequence[float] = (),
) -> AudioLoss:
  """Cross-entropy of each level at every position that predicts a frame and has a media weight.

  Args:
    output: of the model on `row`.
    row: its `media_weight` is 0 for clips that are listened to.
    codes: what positions predict (`Sound.codes`).
    params, config: the model's.
    level_weights: relative weight of each level in `codes`; empty for equal ones.

  Raises:
    ValueError: not one weight for each level.
  """
  levels = config.audio.levels
  if len(level_weights) not in (0, levels):
    raise ValueError(f"{len(level_weights)} level weights for {levels} levels")
  weight = jnp.where(predicts_audio(row), row.media_weight, 0.0)
  heads = params["audio"]["head"]
  sums = [
    cross_entropy_sum(hidden, heads[r], codes[..., r], weight)
    for r, hidden in enumerate(output.audio)
  ]
  by_level = jnp.stack(sums) / jnp.maximum(weight.sum(), 1.0)
  shares = jnp.asarray(level_weights or [1.0] * levels, jnp.float32)
  return AudioLoss(
    codes=jnp.sum(by_level * shares) / shares.sum(), by_level=by_level, frames=weight.sum()
  )
