"""One tiny model, one decoder and its compiled functions for all tests of decoding."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from ernie_jax.backbone.config import ModelConfig
from ernie_jax.generate.decode import Decoder
from ernie_jax.model import UnifiedModel, initial_bias
from ernie_jax.sequence import empty_row

CONFIG = ModelConfig(
  vocab_size=96, depth=3, width=16, heads=2, kv_heads=1, head_dim=8, experts=4, top_k=2,
  expert_width=8, shared_width=8, mtp_depth=1, mtp_width=8, grouped_matmul="reference",
)  # fmt: skip


@pytest.fixture(scope="session")
def config() -> ModelConfig:
  return CONFIG


@pytest.fixture(scope="session")
def bias(config):
  """A bias that changes which experts are chosen."""
  return initial_bias(config).at[:, 1].add(0.2)


@pytest.fixture(scope="session")
def params(config):
  """Parameters large enough for logits that differ clearly from token to token."""
  row = jax.tree.map(lambda a: a[None], empty_row(4))
  init = jax.jit(lambda key: UnifiedModel(config).init(key, row, initial_bias(config)))
  tree = nn.unbox(init(jax.random.key(0)))["params"]
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda a: a * 2 + 0.1 * rng.normal(size=a.shape).astype(np.float32), tree)


@pytest.fixture(scope="session")
def decoder(config) -> Decoder:
  return Decoder(config, cache_length=64)


@pytest.fixture(scope="session")
def weights(decoder, params, bias):
  return decoder.load(params, bias)
