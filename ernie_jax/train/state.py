"""The train state and how it is born on a mesh.

Everything that a resumed run needs is here or in the checkpoint's JSON (the data iterator's integer).
"""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from ernie_jax.sharding.rules import param_shardings
from ernie_jax.train.task import Task


@flax.struct.dataclass
class TrainState:
  """All state of training.

  Attributes:
    step: int32 [], finished optimizer steps.
    params: parameters, float32.
    opt_state: the optimizer's.
    variables: the task's state outside the optimizer (router bias, codebooks).
    key: the run's random key; every draw folds the step into it.
  """

  step: Int[Array, ""]
  params: Any
  opt_state: Any
  variables: Any
  key: Array


def make_state(task: Task, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
  """The state before the first step, with parameters boxed (see `shape_of` and `create`)."""
  key = jax.random.key(seed)
  params, variables = task.init(jax.random.fold_in(key, 0))
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=optimizer.init(params),
    variables=variables,
    key=jax.random.fold_in(key, 1),
  )


def shape_of(
  task: Task, optimizer: optax.GradientTransformation, seed: int, mesh=None
) -> TrainState:
  """The state's shapes, dtypes and (with a mesh) shardings, without computing anything."""
  boxed = jax.eval_shape(lambda: make_state(task, optimizer, seed))
  plain = nn.unbox(boxed)
  if mesh is None or mesh.size == 1:
    return plain
  with_sharding = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
  return jax.tree.map(with_sharding, plain, param_shardings(boxed, mesh))


def create(task: Task, optimizer: optax.GradientTransformation, seed: int, mesh=None) -> TrainState:
  """The state before the first step, computed in place on its devices."""
  shape = shape_of(task, optimizer, seed, mesh)
  shardings = None
  if mesh is not None and mesh.size > 1:
    shardings = jax.tree.map(lambda x: x.sharding, shape)
  build = lambda: nn.unbox(make_state(task, optimizer, seed))
  return jax.jit(build, out_shardings=shardings)()
