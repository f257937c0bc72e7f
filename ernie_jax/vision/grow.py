"""A visual tokenizer that grows: from images to videos, and to more bits.

Trained on images with kernels of one temporal slice, it is inflated: the 2-D kernel becomes the last slice, the others
are zero (VideoAR, arXiv 2601.05966), so images come out as before.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ernie_jax.vision.tokenizer import TokenizerConfig, initial_params


def inflate(params: Any, config: TokenizerConfig) -> Any:
  """Parameters of a video tokenizer that does to images what the image tokenizer does.

  Kernels become the last temporal slice. The head's other slices are copies of it, so that a video
  starts as frames that stand still rather than grey.

  Args:
    params: of an image tokenizer (temporal = 1), unboxed.
    config: of the video tokenizer, otherwise equal.
  """
  shapes = jax.eval_shape(lambda: initial_params(config, jax.random.key(0)))

  def one(path, old, new):
    if old.shape == new.shape:
      return old
    if old.shape[1:] != new.shape[1:] or old.shape[0] != 1:
      name = jax.tree_util.keystr(path, simple=True, separator="/")
      raise ValueError(f"{name} of shape {old.shape} cannot be inflated to {new.shape}")
    if "head" in jax.tree_util.keystr(path):
      return jnp.broadcast_to(old, new.shape)
    return jnp.concatenate([jnp.zeros((new.shape[0] - 1, *new.shape[1:]), old.dtype), old])

  return jax.tree_util.tree_map_with_path(one, params, shapes)


def widen(params: Any, config: TokenizerConfig) -> Any:
  """Parameters of a tokenizer with more bits, whose first bits begin with their old meaning.

  A family of growing bit widths for progressive switching (ERNIE 5.0, section 3.1); how one grows from another is our
  choice. A new bit is of a random mixture of the old ones' latents, in units of one of them: as balanced as they are from
  the start, while of a fresh projection of features, whose mean is not zero, the sign may be the same everywhere. The
  decoder reads nothing from new bits yet.

  Args:
    params: of a tokenizer with fewer bits, unboxed.
    config: of the one with more, otherwise equal.

  Raises:
    ValueError: it has fewer.
  """
  old = params["project"]["kernel"].shape[-1]
  new = config.quantizer.bits
  if new < old:
    raise ValueError(f"bits can grow, not shrink: {old} to {new}")
  project, expand = params["project"], params["decoder"]["expand"]
  mix = jax.random.normal(jax.random.key(0), (old, new - old))
  mix = mix / jnp.linalg.norm(mix, axis=0)
  unread = [(0, 0)] * 3 + [(0, new - old), (0, 0)]
  return {
    **params,
    "project": jax.tree.map(lambda x: jnp.concatenate([x, x @ mix], axis=-1), project),
    "decoder": {
      **params["decoder"], "expand": {**expand, "kernel": jnp.pad(expand["kernel"], unread)}
    },
  }  # fmt: skip
