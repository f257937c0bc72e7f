"""One optimizer step: gradients over one or more micro-batches, then one update.

Letters: A micro-batches.
"""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from ernie_jax.train.optimizer import square_sums
from ernie_jax.train.state import TrainState
from ernie_jax.train.task import Loss, Task


@flax.struct.dataclass
class Report:
  """What a step tells the host.

  Attributes:
    loss: float32 [], mean over the step's micro-batches.
    metrics: the task's metrics, averaged likewise over those that have what they are about, and those of the step.
    grad_norm: float32 [], global norm before clipping.
    learning_rate: float32 [].
    leaf_norms: float32 [leaves], gradient norm of each parameter, in tree order: names the culprit
      when a step is not finite.
    finite: bool []; where it is False the new state is worthless, and the loop must not save it.
  """

  loss: Float[Array, ""]
  metrics: dict[str, Array]
  grad_norm: Float[Array, ""]
  learning_rate: Float[Array, ""]
  leaf_norms: Float[Array, "leaves"]
  finite: Bool[Array, ""]


def make_step(
  task: Task,
  optimizer: optax.GradientTransformationExtraArgs,
  schedule: Callable[[Array], Array],
) -> Callable[[TrainState, Any, Int[Array, ""]], tuple[TrainState, Report]]:
  """The step function, to be jitted with its first argument donated.

  It takes the state, micro-batches stacked on a leading axis A, and how many of them count: a batch
  ramp changes that number without a new compilation.
  """

  def step(state: TrainState, batches: Any, count: Int[Array, ""]) -> tuple[TrainState, Report]:
    key = jax.random.fold_in(state.key, state.step)
    total, grads = _accumulate(task, state, batches, count, key)
    squares = jnp.stack(square_sums(grads))
    finite = jnp.isfinite(total.loss) & jnp.all(jnp.isfinite(squares))
    ran = getattr(task, "ran", lambda counts: None)(total.counts)
    measured = getattr(task, "measured", lambda counts: {})(total.counts)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params, active=ran)
    new = TrainState(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      opt_state=opt_state,
      variables=task.update(state.variables, total.counts, state.step),
      key=state.key,
    )
    report = Report(
      loss=total.loss,
      metrics=total.metrics | measured,
      grad_norm=jnp.sqrt(squares.sum()),
      learning_rate=schedule(state.step),
      leaf_norms=jnp.sqrt(squares),
      finite=finite,
    )
    return new, report

  return step


def leaf_names(params: Any) -> list[str]:
  """Parameter names in the order of `Report.leaf_norms`."""
  paths = jax.tree_util.tree_flatten_with_path(params)[0]
  return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]


def _accumulate(task: Task, state: TrainState, batches: Any, count, key) -> tuple[Loss, Any]:
  """Loss and gradients: means over the first `count` of A micro-batches; counts are summed."""

  def one(i, batch) -> tuple[Loss, Any]:
    def objective(params):
      out = task.loss(params, state.variables, batch, jax.random.fold_in(key, i), state.step)
      return out.loss, out

    (_, out), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
    return out, grads

  size = jax.tree.leaves(batches)[0].shape[0]
  pick = lambda i: jax.tree.map(lambda x: x[i], batches)
  if size == 1:
    return one(0, pick(0))
  zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(one, 0, pick(0)))
  add = lambda i, total: jax.tree.map(jnp.add, total, one(i, pick(i)))
  out, grads = jax.lax.fori_loop(0, count, add, zeros)
  many = {name: jnp.maximum(out.present.get(name, count), 1) for name in out.metrics}
  out = out.replace(
    loss=out.loss / count,
    metrics={name: value / many[name] for name, value in out.metrics.items()},
  )
  return out, jax.tree.map(lambda x: x / count, grads)
