"""experiments/ernie45.py is the published shape, and what its tiny form trains can be exported."""

import dataclasses
import importlib.util
import pathlib

import jax
import numpy as np
import pytest

from ernie_jax.backbone.config import ModelConfig
from ernie_jax.convert import from_hf, hf_config, to_hf
from ernie_jax.convert.names import tree_shapes
from ernie_jax.train.experiment import build_experiment

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "ernie45.py"

# What the config.json of ERNIE-4.5-21B-A3B says of the model, the published MTP module included.
PUBLISHED = {
  "model_type": "ernie4_5_moe",
  "hidden_act": "silu",
  "hidden_size": 2560,
  "intermediate_size": 12288,
  "moe_intermediate_size": 1536,
  "moe_k": 6,
  "moe_layer_end_index": 27,
  "moe_layer_interval": 1,
  "moe_layer_start_index": 1,
  "moe_num_experts": 64,
  "moe_num_shared_experts": 2,
  "num_attention_heads": 20,
  "num_hidden_layers": 28,
  "num_key_value_heads": 4,
  "num_nextn_predict_layers": 1,
  "rms_norm_eps": 1e-05,
  "rope_theta": 500000,
  "tie_word_embeddings": True,
  "torch_dtype": "bfloat16",
  "use_bias": False,
  "vocab_size": 103424,
}


def model_of(arg: str) -> ModelConfig:
  spec = importlib.util.spec_from_file_location("ernie45", FILE)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return build_experiment(module.get_config(arg)).model


def test_the_experiment_is_the_published_model():
  imported = hf_config.to_model(PUBLISHED, mtp_depth=1)
  assert model_of("") == dataclasses.replace(imported, remat="full")


def test_it_has_the_published_number_of_parameters():
  """21.83 B without the MTP module (the report says 21 B); nothing is computed here."""
  params = tree_shapes(dataclasses.replace(model_of(""), mtp_depth=0))["params"]
  count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
  assert count == pytest.approx(21.83e9, rel=1e-3)


def test_a_model_of_the_tiny_experiment_survives_the_way_out_and_back():
  model = model_of("tiny")
  shapes = tree_shapes(model)
  rng = np.random.default_rng(0)
  tree = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
  tree["bias"][: model.dense_layers] = 0
  exported = to_hf(model, tree["params"], tree["bias"])
  again = from_hf(exported.config, exported.tensors)
  assert again.model == model
  back = {"params": again.params, "bias": again.bias}
  assert jax.tree.all(jax.tree.map(np.array_equal, back, tree))
