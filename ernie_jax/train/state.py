"""The train state and how it is born on a mesh.

Everything that a resumed run needs is here or in the checkpoint's JSON (the data iterator's integer).
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
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


def shape_of(
  task: Task, optimizer: optax.GradientTransformation, seed: int, mesh: Mesh | None = None
) -> TrainState:
  """The state's shapes, dtypes and (with a mesh) shardings, without computing anything."""
  shape = jax.eval_shape(lambda: _build(task, optimizer, seed))
  if mesh is None or mesh.size == 1:
    return shape
  boxed = jax.eval_shape(task.init, jax.random.key(seed))[0]
  params = param_shardings(boxed, mesh)
  whole = NamedSharding(mesh, PartitionSpec())
  place = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
  everywhere = lambda tree: jax.tree.map(lambda x: place(x, whole), tree)
  return TrainState(
    step=everywhere(shape.step),
    params=jax.tree.map(place, shape.params, params),
    opt_state=_place_moments(shape.opt_state, params, place, whole),
    variables=everywhere(shape.variables),
    key=everywhere(shape.key),
  )


def create(
  task: Task, optimizer: optax.GradientTransformation, seed: int, mesh: Mesh | None = None
) -> TrainState:
  """The state before the first step, computed in place on its devices."""
  shardings = None
  if mesh is not None and mesh.size > 1:
    shardings = jax.tree.map(lambda x: x.sharding, shape_of(task, optimizer, seed, mesh))
  return jax.jit(lambda: _build(task, optimizer, seed), out_shardings=shardings)()


def _place_moments(opt_state: Any, params: Any, place: Callable, whole: NamedSharding) -> Any:
  """Each moment divided as the parameter whose path its own path ends with; the rest is whole.

  Not `optax.tree_utils.tree_map_params`: an optimizer that treats parameters differently (Muon beside
  Adam) keeps a tree with holes for each kind, which it cannot match.
  """
  names = lambda path: tuple(jax.tree_util.keystr((k,), simple=True) for k in path)
  known = {names(path): s for path, s in jax.tree_util.tree_leaves_with_path(params)}

  def one(path, leaf):
    own = names(path)
    ends = (own[i:] for i in range(len(own)))
    sharding = next((known[end] for end in ends if end in known), whole)
    # A count or another scalar kept for a parameter has no axes to divide.
    return place(leaf, sharding if leaf.ndim >= len(sharding.spec) else whole)

  return jax.tree_util.tree_map_with_path(one, opt_state)


def initial_params(task: Task, seed: int) -> Any:
  """The parameters a run of this seed starts from, without logical axis names."""
  return nn.unbox(task.init(jax.random.fold_in(jax.random.key(seed), 0))[0])


def _build(task: Task, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
  key = jax.random.key(seed)
  params, variables = task.init(jax.random.fold_in(key, 0))
  params = nn.unbox(params)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=optimizer.init(params),
    variables=variables,
    key=jax.random.fold_in(key, 1),
  )
