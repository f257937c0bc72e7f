"""Frozen networks whose features the tokenizer is compared or aligned with.

A teacher is anything with `maps`: a small classifier of our own, trained in seconds on labelled pictures
(nothing is downloaded), or a ViT that the user has converted. The same teacher serves the perceptual
loss (all its maps) and the semantic regulariser (the last).

Letters: N pictures, H W pixels, h w sides of a map, C channels, G groups of classes.
"""

import pathlib
from collections.abc import Sequence
from typing import Any, Protocol

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from jaxtyping import Array, Float, Int, UInt8
from safetensors.numpy import load_file, save_file

from ernie_jax.causal import Norm
from ernie_jax.errors import UserError
from ernie_jax.vision.resize import resize
from ernie_jax.vision.tokenizer import CausalConv, space_to_depth, to_float
from ernie_jax.vision.vit import VisionTransformer, VitConfig
from ernie_jax.whole_file import written_whole


class Teacher(Protocol):
  """Something frozen that looks at pictures."""

  def maps(self, pictures: Float[Array, "N H W 3"]) -> list[Float[Array, "N h w C"]]:
    """Feature maps of pictures in [-1, 1], shallow to deep; the last one is the most semantic."""


class Classifier(nn.Module):
  """Three halvings of the picture, then one linear layer a group of classes over the whole last map.

  Attributes:
    classes: how many classes each group has.
    widths: channels of the levels.
  """

  classes: tuple[int, ...]
  widths: tuple[int, ...] = (24, 48, 64)

  def setup(self):
    self.convs = [CausalConv(width) for width in self.widths]
    self.norms = [Norm() for _ in self.widths]
    self.heads = [CausalConv(count, side=1) for count in self.classes]

  def maps(self, pictures: Float[Array, "N H W 3"]) -> list[Float[Array, "N h w C"]]:
    """The feature map of each level."""
    x, maps = pictures[:, None], []
    for conv, norm in zip(self.convs, self.norms):
      x = nn.silu(norm(conv(space_to_depth(x, 2))))
      maps.append(x[:, 0])
    return maps

  def __call__(self, pictures: Float[Array, "N H W 3"]) -> list[Float[Array, "N C"]]:
    """Logits of each group."""
    last = self.maps(pictures)[-1]
    flat = last.reshape(len(last), 1, 1, 1, -1)
    return [head(flat).reshape(len(last), -1) for head in self.heads]


@flax.struct.dataclass
class ClassifierTeacher:
  """A trained `Classifier`.

  Attributes:
    params: its parameters, unboxed.
    classes: of its groups.
  """

  params: Any
  classes: tuple[int, ...] = flax.struct.field(pytree_node=False)

  def maps(self, pictures: Float[Array, "N H W 3"]) -> list[Float[Array, "N h w C"]]:
    """The feature map of each level."""
    return Classifier(self.classes).apply({"params": self.params}, pictures, method="maps")

  def logits(self, pictures: Float[Array, "N H W 3"]) -> list[Float[Array, "N C"]]:
    """What it thinks it sees."""
    return Classifier(self.classes).apply({"params": self.params}, pictures)

  def save(self, path: str | pathlib.Path) -> None:
    """Writes a file that `load_classifier` reads."""
    flat = traverse_util.flatten_dict(self.params, sep="/")
    with written_whole(path) as part:
      save_file({name: np.array(x) for name, x in flat.items()}, part)


def load_classifier(path: str | pathlib.Path) -> ClassifierTeacher:
  """Reads what `ClassifierTeacher.save` wrote.

  Raises:
    UserError: the file is absent or is no classifier.
  """
  try:
    flat = load_file(path)
    params = traverse_util.unflatten_dict(flat, sep="/")
    heads = sorted((n for n in params if n.startswith("heads_")), key=lambda n: int(n[6:]))
    classes = tuple(params[name]["kernel"].shape[-1] for name in heads)
  except Exception as e:
    raise UserError(f"cannot read the teacher {path}: {e}") from e
  if not classes:
    raise UserError(f"{path} is not a teacher: it has no heads")
  return ClassifierTeacher(params=params, classes=classes)


@flax.struct.dataclass
class VitTeacher:
  """A vision transformer, with its patch features as the only map.

  Attributes:
    params: parameters of a `VisionTransformer`.
    config: its shape; pictures are resized to the size that its positions were learned at.

  Raises:
    UserError: positions of another form than a square.
  """

  params: Any
  config: VitConfig = flax.struct.field(pytree_node=False)

  def __post_init__(self):
    if self.config.grid[0] != self.config.grid[1]:
      raise UserError(f"a teacher looks at square pictures, but its grid is {self.config.grid}")

  def maps(self, pictures: Float[Array, "N H W 3"]) -> list[Float[Array, "N h w C"]]:
    """The patches after the last block."""
    side = self.config.grid[0] * self.config.patch
    pictures = resize(pictures, side, "area" if side < pictures.shape[1] else "linear")
    return [VisionTransformer(self.config).apply({"params": self.params}, pictures).patches]


def train_classifier(
  pictures: UInt8[np.ndarray, "N H W 3"],
  labels: Int[np.ndarray, "N G"],
  *,
  classes: Sequence[int],
  steps: int,
  batch: int = 64,
  seed: int = 0,
) -> ClassifierTeacher:
  """Trains the small classifier on labelled pictures: some seconds for hundreds of steps.

  Args:
    pictures: training pictures.
    labels: the class of each group.
    classes: how many each group has.
    steps: updates.
    batch: pictures of an update.
    seed: of parameters and order; equal seeds give equal teachers.
  """
  model = Classifier(tuple(classes))
  side = pictures.shape[1]
  init = jax.jit(lambda key: nn.unbox(model.init(key, jnp.zeros((1, side, side, 3)))["params"]))
  params = init(jax.random.key(seed))
  optimizer = optax.adamw(optax.cosine_decay_schedule(3e-3, steps), weight_decay=1e-2)

  def loss(params, x, y):
    logits = model.apply({"params": params}, to_float(x))
    entropy = optax.softmax_cross_entropy_with_integer_labels
    return sum(entropy(z, y[:, g]).mean() for g, z in enumerate(logits)) / len(logits)

  @jax.jit
  def step(params, state, x, y):
    grads = jax.grad(loss)(params, x, y)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  rng, state = np.random.default_rng(seed), optimizer.init(params)
  for _ in range(steps):
    chosen = rng.integers(len(pictures), size=batch)
    params, state = step(params, state, pictures[chosen], labels[chosen])
  return ClassifierTeacher(params=params, classes=tuple(classes))


class SemanticBranch(nn.Module):
  """The added branch: from the quantised sum to the teacher's features, so that bits carry meaning.

  Attributes:
    features: channels of the teacher's last map.
    width: of the hidden layer.
  """

  features: int
  width: int = 64

  @nn.compact
  def __call__(self, total: Float[Array, "B n h w d"]) -> Float[Array, "B n h w C"]:
    x = nn.silu(CausalConv(self.width, name="hidden")(total))
    return CausalConv(self.features, side=1, name="out")(x)
