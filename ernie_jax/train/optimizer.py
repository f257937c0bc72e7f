"""AdamW and Muon over the parameter tree, with parts of it frozen when they did not run.

Letters: N layers, E experts, D width, F expert width, H heads, h head size.

What a parameter is gets decided by its name, never by its rank: a stacked norm scale [N, D] is not a
matrix, and a stacked kernel [N, E, D, F] is N x E matrices. Left to itself `optax.contrib.muon` owns
2-D leaves only, that is, next to nothing of a scanned model. Here Muon owns the kernels of
attention, MLPs and experts, each layer's and expert's matrix on its own; embedding, head, router
and norms go to Adam. Sources: Muon (Jordan et al. 2024), its scale to AdamW's update size (Liu et
al. 2025, arXiv 2502.16982), AdamW (0.9, 0.95) as in the report.

Gotcha: a part that did not run has zero gradient, but Adam goes on moving it by its moments, and Muon
moves it at full size, because orthogonalising forgets how small the stale momentum is. Pass `active`
to `update` to leave such parts alone.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

from ernie_jax.train.muon import scale_by_muon

Schedule = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """How gradients become updates.

  Attributes:
    name: "adamw" for everything, or "muon" for matrices with AdamW for the rest.
    b1, b2, eps: Adam's.
    weight_decay: multiplied by the learning rate; not applied to scales and biases.
    decay_embeddings: apply it to the token embedding too.
    clip_norm: largest global gradient norm; 0 leaves gradients as they are.
    muon_momentum: decay of Muon's momentum (Nesterov).
    muon_iterations: Newton-Schulz iterations.
    muon_rms: root mean square of Muon's update before the learning rate; 0.2 is what AdamW's
      typically has, so that both share one learning rate and decay.
  """

  name: Literal["adamw", "muon"] = "adamw"
  b1: float = 0.9
  b2: float = 0.95
  eps: float = 1e-8
  weight_decay: float = 0.1
  decay_embeddings: bool = False
  clip_norm: float = 1.0
  muon_momentum: float = 0.95
  muon_iterations: int = 5
  muon_rms: float = 0.2

  def __post_init__(self):
    for name in ("b1", "b2", "muon_momentum"):
      if not 0 <= getattr(self, name) < 1:
        raise ValueError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}")
    for name in ("weight_decay", "clip_norm"):
      if getattr(self, name) < 0:
        raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
    if self.muon_iterations < 1:
      raise ValueError(f"muon_iterations must be at least 1, got {self.muon_iterations}")


def make_optimizer(
  config: OptimizerConfig, schedule: Schedule, params: Any, *, frozen: Sequence[str] = ()
) -> optax.GradientTransformationExtraArgs:
  """The optimizer for parameters shaped like `params` (arrays or ShapeDtypeStructs, unboxed).

  Its `update(grads, state, params, active=None)` takes the factors of `freeze_inactive`. What lies below the
  paths of `frozen` never moves, has no moments and costs nothing.
  """
  labels = _by_name(lambda name, p: "muon" if matrix_axes(name, p) else "adam", params)
  adam = optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps)
  if config.name == "muon":
    axes = lambda updates: _by_name(matrix_axes, updates)
    muon = scale_by_muon(axes, iterations=config.muon_iterations, momentum=config.muon_momentum)
    rescale = _match_update_size(config.muon_rms)
    direction = optax.partition({"muon": optax.chain(muon, rescale), "adam": adam}, labels)
  else:
    direction = adam
  clip = _clip(config.clip_norm) if config.clip_norm else optax.identity()
  decay = optax.add_decayed_weights(config.weight_decay, mask=decay_mask(config, params))
  rate = optax.scale_by_learning_rate(schedule)
  whole = optax.chain(clip, direction, decay, rate)
  if frozen:
    still = lambda name, _: "frozen" if any(_below(name, f) for f in frozen) else "trained"
    both = {"trained": whole, "frozen": optax.set_to_zero()}
    whole = optax.partition(both, _by_name(still, params))
  return freeze_inactive(whole)


def square_sums(grads: Any) -> list[jax.Array]:
  """Sum of squares of each leaf: written once, so that XLA computes it once for clip and report."""
  return [jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads)]


def _clip(limit: float) -> optax.GradientTransformation:
  """Scales all gradients so that their global norm is at most `limit`.

  `optax.clip_by_global_norm` divides every element, which XLA will not repeat in each of Adam's
  loops and so writes to memory; one factor costs nothing.
  """

  def update(grads, params=None):
    norm = jnp.sqrt(sum(square_sums(grads)))
    factor = limit / jnp.maximum(norm, limit)
    return jax.tree.map(lambda g: g * factor, grads)

  return optax.stateless(update)


def matrix_axes(name: str, leaf: Any) -> MuonDimensionNumbers | None:
  """The axes of the matrix that a parameter is a stack of; None for what Muon must not own.

  Args:
    name: path of the parameter, joined by `/`.
    leaf: the parameter, or anything with its `ndim`; leading axes are layers, experts or both.
  """
  parts = name.split("/")
  module = parts[-2] if len(parts) > 1 else ""
  if parts[-1] == "kernel" and module != "router":
    if "attention" in parts and module in ("query", "key", "value"):  # [..., D, H, h]
      return MuonDimensionNumbers((-3,), (-2, -1)) if leaf.ndim in (3, 4) else None
    if "attention" in parts and module == "out":  # [..., H, h, D]
      return MuonDimensionNumbers((-3, -2), (-1,)) if leaf.ndim in (3, 4) else None
    # A kernel of higher rank is a convolution's, which is left to Adam.
    return MuonDimensionNumbers((-2,), (-1,)) if leaf.ndim in (2, 3) else None
  if module == "experts" and parts[-1] in ("gate", "up", "down") and leaf.ndim in (3, 4):
    return MuonDimensionNumbers((-2,), (-1,))
  return None


def decay_mask(config: OptimizerConfig, params: Any) -> Any:
  """Which parameters weight decay applies to, as a tree of bools: decided by name, see above."""

  def decays(name: str, leaf: Any) -> bool:
    last = name.split("/")[-1]
    return last not in ("scale", "bias") and (last != "embedding" or config.decay_embeddings)

  return _by_name(decays, params)


def freeze_inactive(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
  """Leaves parameters and their moments untouched where they did not take part in a step.

  `update` takes `active`: None (everything takes part), or a dict from a path prefix (`stack/layers`,
  `stack/layers/moe/experts`) to factors 0 or 1 that broadcast against the leading axes of every
  parameter below it, [N] or [N, E]. The longest prefix of a parameter counts. Step counts go on, so
  the bias correction of a moment that starts late is a little too small: a gentle start.
  """
  inner = optax.with_extra_args_support(inner)

  def update(grads, state, params=None, *, active: Mapping[str, jax.Array] | None = None, **extra):
    updates, new_state = inner.update(grads, state, params, **extra)
    if active is None:
      return updates, new_state
    unknown = [p for p in active if not any(_below(n, p) for n, _ in _named(grads))]
    if unknown:
      raise ValueError(f"active names no parameter: {unknown[0]}")
    factors = {name: _factor(name, leaf, active) for name, leaf in _named(grads)}
    factors = {name: factor for name, factor in factors.items() if factor is not None}
    keep = lambda name, new, old: jnp.where(factors[name], new, old) if name in factors else new
    updates = _by_name(lambda name, u: keep(name, u, jnp.zeros_like(u)), updates)
    # A moment's path ends with the path of its parameter.
    owner = {}
    for name, _ in _named(new_state):
      parts = name.split("/")
      tails = ("/".join(parts[i:]) for i in range(len(parts)))
      owner[name] = next((tail for tail in tails if tail in factors), None)
    new_state = jax.tree_util.tree_map_with_path(
      lambda path, new, old: keep(owner[_name(path)], new, old), new_state, state
    )
    return updates, new_state

  return optax.GradientTransformationExtraArgs(inner.init, update)


def _factor(name: str, leaf: jax.Array, active: Mapping[str, jax.Array]) -> jax.Array | None:
  """The factors of the longest prefix in `active`, shaped to broadcast against `leaf`."""
  prefixes = [p for p in active if _below(name, p)]
  if not prefixes:
    return None
  prefix = max(prefixes, key=len)
  factor = jnp.asarray(active[prefix])
  if factor.shape != leaf.shape[: factor.ndim]:
    raise ValueError(f"active[{prefix!r}] has shape {factor.shape}, but {name} is {leaf.shape}")
  return factor.reshape(factor.shape + (1,) * (leaf.ndim - factor.ndim)) != 0


def _below(name: str, prefix: str) -> bool:
  return name == prefix or name.startswith(f"{prefix}/")


def _match_update_size(rms: float) -> optax.GradientTransformation:
  """Scales an orthogonal [..., I, O] update so that its root mean square is `rms` for any shape."""

  def scale(name: str, update: jax.Array) -> jax.Array:
    axes = matrix_axes(name, update)
    size = lambda dims: math.prod(update.shape[d] for d in dims)
    return update * (rms * math.sqrt(max(size(axes.reduction_axis), size(axes.output_axis))))

  return optax.stateless(lambda updates, params: _by_name(scale, updates))


def _name(path: tuple) -> str:
  return jax.tree_util.keystr(path, simple=True, separator="/")


def _named(tree: Any) -> list[tuple[str, Any]]:
  return [(_name(path), leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]]


def _by_name(function: Callable[[str, Any], Any], tree: Any) -> Any:
  return jax.tree_util.tree_map_with_path(lambda path, leaf: function(_name(path), leaf), tree)
