"""Learning rate and batch size as functions of the step.

Steps count from 0; the value at step s is the one its update uses. Warm-up is linear and its first
step is not zero, so no step is wasted. The report warms up over 2,000 steps and then stays constant
while the batch grows from 14M to 56M tokens (ERNIE 5.0, section 5); a flat schedule with a short
decay at the end (WSD) also suits small runs, where a schedule that decays on a plateau looks like a
limit of capacity.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
  """Learning rate of a run.

  Attributes:
    kind: "wsd" is warm-up, flat, linear decay at the end; "cosine" is warm-up, then half a cosine to
      the last step; "constant" is warm-up, then flat.
    peak: the highest learning rate.
    warmup_steps: steps of linear growth to the peak.
    decay_fraction: part of all steps that "wsd" spends decaying.
    final_ratio: the last step's learning rate divided by the peak ("wsd" and "cosine").
  """

  kind: Literal["wsd", "cosine", "constant"] = "wsd"
  peak: float = 1e-3
  warmup_steps: int = 100
  decay_fraction: float = 0.2
  final_ratio: float = 0.0

  def __post_init__(self):
    if self.peak <= 0:
      raise ValueError(f"peak must be positive, got {self.peak}")
    if self.warmup_steps < 0:
      raise ValueError(f"warmup_steps must not be negative, got {self.warmup_steps}")
    for name in ("decay_fraction", "final_ratio"):
      if not 0 <= getattr(self, name) <= 1:
        raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class BatchRampConfig:
  """Growth of the batch: the number of micro-batches accumulated for one update.

  Attributes:
    start: micro-batches at step 0.
    end: micro-batches from step `steps` on.
    steps: length of the ramp; 0 is `end` from the first step.
  """

  start: int = 1
  end: int = 1
  steps: int = 0

  def __post_init__(self):
    if not 1 <= self.start <= self.end:
      raise ValueError(f"need 1 <= start <= end, got start {self.start} and end {self.end}")
    if self.steps < 0:
      raise ValueError(f"steps must not be negative, got {self.steps}")


def make_schedule(config: ScheduleConfig, total_steps: int) -> Callable[[jax.Array], jax.Array]:
  """The learning rate at a step (an int or an integer array), for a run of `total_steps` updates.

  After the last step it stays at its final value. A warm-up longer than the run is cut by it.
  """
  decay_steps = max(1, round(config.decay_fraction * total_steps))
  falls = config.kind != "constant" and not (config.kind == "wsd" and config.decay_fraction == 0)

  def schedule(step):
    done = jnp.asarray(step, jnp.float32) + 1
    warm = jnp.minimum(1.0, done / max(1, config.warmup_steps))
    if not falls:
      return config.peak * warm
    if config.kind == "wsd":
      left = 1 - jnp.clip((done - (total_steps - decay_steps)) / decay_steps, 0, 1)
    else:
      length = max(1, total_steps - config.warmup_steps)
      left = 0.5 + 0.5 * jnp.cos(jnp.pi * jnp.clip((done - config.warmup_steps) / length, 0, 1))
    return config.peak * warm * (config.final_ratio + (1 - config.final_ratio) * left)

  return schedule


def microbatches_at(step: int, config: BatchRampConfig) -> int:
  """How many micro-batches the update of `step` accumulates: a staircase under the straight line."""
  if step >= config.steps:
    return config.end
  return config.start + (config.end - config.start) * step // config.steps
