"""A model with vision small enough for every room's tests: 16 px, three scales of five bits."""

from collections.abc import Sequence

import jax
import numpy as np

from ernie_jax.backbone.config import ModelConfig
from ernie_jax.media import MediaConfig, Vision
from ernie_jax.sequence import Item, MediaRow, RowBuilder, SlotsConfig
from ernie_jax.train.pretrain import unboxed_params
from ernie_jax.vision.quantizer import QuantizerConfig
from ernie_jax.vision.tokenizer import TokenizerConfig, initial_params
from ernie_jax.vision.understand import UnderstandConfig
from ernie_jax.vision.vit import VitConfig

CODE = QuantizerConfig(sides=(1, 2, 4), bits=5)
MODEL = ModelConfig(
  vocab_size=96, depth=2, width=16, heads=2, kv_heads=1, head_dim=8, experts=4, top_k=2,
  expert_width=8, shared_width=8, grouped_matmul="reference", vision=CODE,
)  # fmt: skip
TOKENIZER = TokenizerConfig(quantizer=CODE, patch=4, widths=(8,), blocks=1, temporal=4)
VIT = VitConfig(patch=4, grid=(4, 4), depth=1, width=8, heads=2, mlp_width=16)
CONFIG = MediaConfig(TOKENIZER, UnderstandConfig(vit=VIT, heads=2))
SLOTS = SlotsConfig(side=16, frames=9, drawn_images=2, drawn_videos=1, seen_images=1, seen_videos=1)
LENGTH = 160


def media(seed: int, frames: int = 1) -> np.ndarray:
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (frames, 16, 16, 3)).astype(np.uint8)


def batch_of(*rows):
  return jax.tree.map(lambda *fields: np.stack(fields), *rows)


def row_of(
  *examples: Sequence[Item], length: int = LENGTH, window: int | None = None, slots=SLOTS
) -> MediaRow:
  """A row with these examples, all of which must fit."""
  builder = RowBuilder(CONFIG.shapes(window=window), slots, length=length)
  assert all([builder.add(items) for items in examples])
  return builder.finish()


def frozen_tokenizer():
  """Parameters of a fresh visual tokenizer."""
  return jax.jit(lambda: initial_params(TOKENIZER, jax.random.key(1)))()


def clear_params(frozen, model: ModelConfig = MODEL, vision: Vision | None = None):
  """Parameters in which every part matters: far from their small start."""
  tree = unboxed_params(model, jax.random.key(0), vision or Vision(CONFIG, frozen))
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda a: a * 2 + 0.1 * rng.normal(size=a.shape).astype(np.float32), tree)
