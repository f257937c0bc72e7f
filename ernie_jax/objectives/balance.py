"""Losses of several modalities brought to a common size (ERNIE 5.0, section 2).

The report rescales each modality's loss to a common interval by a "posterior-based" weight and gives no formula.
Ours: a loss l is divided by a running mean m of what it was in earlier steps,

    rescaled = l / stop_gradient(m),    m <- (sum over steps s of decay^s l_s) / (sum of decay^s)

over the steps that had the modality at all. So nats per token, per bit and per code all enter near 1, the
configured weights say how much a modality counts and nothing else, and the gradient is that of the logarithm of the
loss: a modality that has become easy is not forgotten.
"""

from collections.abc import Iterable

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@flax.struct.dataclass
class RunningMeans:
  """What the losses of the modalities were.

  Attributes:
    total: float32 by name, the decayed sum of losses.
    weight: float32 by name, the decayed sum of ones; 0: the modality has not been seen.
  """

  total: dict[str, Float[Array, ""]]
  weight: dict[str, Float[Array, ""]]


@flax.struct.dataclass
class Observed:
  """Losses of a step, which micro-batches add up to.

  Attributes:
    loss: float32 by name, 0 where the modality was not there.
    present: float32 by name, 1 where it was.
  """

  loss: dict[str, Float[Array, ""]]
  present: dict[str, Float[Array, ""]]


def no_means(names: tuple[str, ...]) -> RunningMeans:
  """Before the first step."""
  zeros = lambda: {name: jnp.zeros((), jnp.float32) for name in names}
  return RunningMeans(total=zeros(), weight=zeros())


def scales(means: RunningMeans) -> dict[str, Float[Array, ""]]:
  """What each loss is multiplied by: one over its running mean; 1 where there is none yet. No gradient."""

  def one(name: str) -> Array:
    weight = means.weight[name]
    mean = means.total[name] / jnp.maximum(weight, 1e-9)
    return jax.lax.stop_gradient(jnp.where(weight > 0, 1 / jnp.maximum(mean, 1e-6), 1.0))

  return {name: one(name) for name in means.total}


def observed(losses: dict[str, Float[Array, ""]], counts: dict[str, Float[Array, ""]]) -> Observed:
  """Losses of a batch, and whether there was any of each modality (its count is above 0)."""
  present = {name: (count > 0).astype(jnp.float32) for name, count in counts.items()}
  loss = {name: jnp.where(present[name] > 0, value, 0.0) for name, value in losses.items()}
  return Observed(loss=jax.lax.stop_gradient(loss), present=present)


def present_metrics(names: Iterable[str], seen: Observed) -> dict[str, Float[Array, ""]]:
  """For each metric that has a modality in its name, such as `loss/bits`, whether that was there."""
  return {
    name: here for name in names for kind, here in seen.present.items() if kind in name.split("/")
  }


def updated(means: RunningMeans, seen: Observed, *, decay: float) -> RunningMeans:
  """The means after a step; those of a modality that was not there stay as they are."""

  def one(name: str) -> tuple[Array, Array]:
    total, weight, present = means.total[name], means.weight[name], seen.present[name]
    loss = seen.loss[name] / jnp.maximum(present, 1.0)
    keep = lambda new, old: jnp.where(present > 0, new, old)
    return keep(decay * total + loss, total), keep(decay * weight + 1.0, weight)

  new = {name: one(name) for name in means.total}
  return RunningMeans(
    total={name: value[0] for name, value in new.items()},
    weight={name: value[1] for name, value in new.items()},
  )
