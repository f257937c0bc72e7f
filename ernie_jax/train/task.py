"""What a stage of training must say about itself; the loop does the rest.

A task is a model together with its objective: pre-training, a tokenizer, a codec, RL. It never sees
optimizers, checkpoints or meshes.
"""

from typing import Any, Protocol

import flax.struct
from jaxtyping import Array, Float


@flax.struct.dataclass
class Loss:
  """What a task returns for one micro-batch.

  Attributes:
    loss: float32 [], the value to differentiate.
    metrics: name -> float32 array, averaged over the step's micro-batches and logged.
    present: of metrics about what not every micro-batch has, 1, or 0 where it has none and the metric is 0: these
      are averaged over the others.
    counts: pytree of arrays, summed over the step's micro-batches and given to `update`.
  """

  loss: Float[Array, ""]
  metrics: dict[str, Array]
  counts: Any
  present: dict[str, Array] = flax.struct.field(default_factory=dict)


class Task(Protocol):
  """One kind of training.

  A task may say in `frozen` which parameters stay as `init` makes them: paths joined by `/`. And in `ran(counts)`,
  from the counts of the whole step, which parts took part in it, as `train.optimizer.freeze_inactive` takes it; and in
  `measured(counts)` metrics of the whole step, which are logged beside those of its micro-batches.
  """

  def init(self, key: Array) -> tuple[Any, Any]:
    """Parameters (boxed with logical axis names) and variables (state outside the optimizer)."""

  def loss(self, params: Any, variables: Any, batch: Any, key: Array, step: Array) -> Loss:
    """The objective on one micro-batch; `key` is the same on all hosts."""

  def update(self, variables: Any, counts: Any, step: Array) -> Any:
    """The variables after an optimizer step, from the counts of the whole step."""
