"""Small families with parameters in which every part matters, and rows to run them on."""

import functools

import jax
import numpy as np

from ernie_jax.backbone.config import ModelConfig, RouterConfig
from ernie_jax.model import UnifiedModel, text_logits
from ernie_jax.sequence import Text, lay_out, pack
from ernie_jax.train.pretrain import unboxed_params

SMALL = dict(
  vocab_size=96, depth=4, width=16, heads=2, kv_heads=1, head_dim=8, experts=4, top_k=2,
  expert_width=8, shared_width=8,
)  # fmt: skip
MODELS = {
  "plain": ModelConfig(**SMALL),
  "dense below": ModelConfig(**SMALL, dense_layers=2, dense_width=12, top_layers=1),
  "unrolled top": ModelConfig(**SMALL, top_layers=2, tie_embeddings=False),
  "sigmoid": ModelConfig(**SMALL, router=RouterConfig(scores="sigmoid", scale=2.5)),
  "not renormalised": ModelConfig(**SMALL, router=RouterConfig(renormalise=False)),
}


@functools.cache
def family(name: str):
  """Config, parameters, bias and usage of a model of `MODELS`."""
  model = MODELS[name]
  rng = np.random.default_rng(0)
  params = jax.device_get(unboxed_params(model, jax.random.key(0)))
  params = jax.tree.map(lambda x: 2 * x + 0.1 * rng.standard_normal(x.shape, np.float32), params)
  draw = lambda low, high: rng.uniform(low, high, (model.depth, model.experts)).astype(np.float32)
  return model, params, draw(-0.1, 0.1), draw(0, 1)


@functools.cache
def forward(model: ModelConfig):
  """Jitted (params, bias, rows, active) -> logits."""

  def logits(params, bias, rows, active=None):
    output = UnifiedModel(model).apply({"params": params}, rows, bias, active)
    return text_logits(output.hidden, params, model)

  return jax.jit(logits)


@functools.cache
def batch():
  """Three rows of random text, the last positions of the first two empty."""
  rng = np.random.default_rng(1)
  tokens = lambda n: tuple(rng.integers(64, 96, n).tolist())
  made = [pack([lay_out([Text(tokens(n))])], 16) for n in (9, 13, 16)]
  return jax.tree.map(lambda *fields: np.stack(fields), *made)
