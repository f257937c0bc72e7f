"""A model with sound small enough for every room's tests: three levels of six codes, heads between layers."""

from collections.abc import Sequence

import jax
import numpy as np

from ernie_jax.backbone.config import AudioConfig, ModelConfig
from ernie_jax.sequence import NO_SLOTS, Clip, Item, MediaRow, RowBuilder, Speaker, Text
from ernie_jax.speech import sound_shape
from ernie_jax.train.pretrain import unboxed_params

CODE = AudioConfig(levels=3, codes=6, voice=5)
MODEL = ModelConfig(
  vocab_size=96, depth=4, width=16, heads=2, kv_heads=1, head_dim=8, experts=4, top_k=2,
  expert_width=8, shared_width=8, top_layers=3, grouped_matmul="reference", audio=CODE,
)  # fmt: skip
SHAPE = sound_shape(CODE)
LENGTH = 40


def codes(seed: int, frames: int) -> np.ndarray:
  return np.random.default_rng(seed).integers(0, CODE.codes, (frames, CODE.levels))


def voice(seed: int) -> np.ndarray:
  return np.random.default_rng(seed).normal(size=CODE.voice).astype(np.float32)


def speak(seed: int, frames: int = 4) -> list[Item]:
  words = Text((1, 70 + seed, 71), learn=False)
  return [words, Speaker(voice(seed)), Clip(codes(seed, frames)), Text((2,))]


def listen(seed: int, frames: int = 4) -> list[Item]:
  heard = Clip(codes(seed, frames), learn=False)
  return [Text((1,)), heard, Text((3,), learn=False), Text((80 + seed, 81, 2))]


def row_of(*examples: Sequence[Item], length: int = LENGTH) -> MediaRow:
  """A row with these examples, all of which must fit."""
  builder = RowBuilder(None, NO_SLOTS, length=length, sound=SHAPE)
  assert all([builder.add(items) for items in examples])
  return builder.finish()


def batch_of(*rows: MediaRow) -> MediaRow:
  return jax.tree.map(lambda *fields: np.stack(fields), *rows)


def clear_params(model: ModelConfig = MODEL):
  """Parameters in which every part matters: far from their small start."""
  init = jax.jit(lambda key: unboxed_params(model, key))
  tree = init(jax.random.key(0))
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda a: a * 2 + 0.1 * rng.normal(size=a.shape).astype(np.float32), tree)
