"""The table of names covers the parameter tree: every element of ours has exactly one tensor."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_jax.backbone.config import AudioConfig, ModelConfig
from ernie_jax.convert import hf_config
from ernie_jax.convert.names import slots, tree_shapes
from ernie_jax.errors import UserError
from ernie_jax.vision.quantizer import QuantizerConfig


@st.composite
def models(draw) -> ModelConfig:
  depth = draw(st.integers(1, 4))
  mtp = draw(st.integers(0, 2))
  experts = draw(st.integers(1, 4))
  dense = draw(st.integers(0, depth - 1))
  return ModelConfig(
    vocab_size=11,
    depth=depth,
    width=8,
    heads=2,
    kv_heads=draw(st.sampled_from([1, 2])),
    head_dim=draw(st.sampled_from([4, 6])),
    qk_norm=False,
    rope_base=draw(st.sampled_from([1e4, 5e5])),
    experts=experts,
    top_k=draw(st.integers(1, experts)),
    expert_width=3,
    shared_width=3 * draw(st.integers(0, 2)),
    dense_layers=dense,
    dense_width=10,
    tie_embeddings=draw(st.booleans()),
    mtp_depth=mtp,
    mtp_width=10 if mtp else 0,
  )


@given(models(), st.integers(0, 1))
@settings(max_examples=15, deadline=None)
def test_every_element_of_the_tree_has_exactly_one_tensor(model, top):
  model = dataclasses.replace(model, top_layers=top * model.depth)
  count = jax.tree.map(lambda leaf: np.zeros(leaf.shape, int), tree_shapes(model))
  names = set()
  for slot in slots(model):
    leaf = count
    for key in slot.path:
      leaf = leaf[key]
    leaf[slot.index] += 1
    names.add(slot.name)
  assert len(names) == len(list(slots(model)))
  count["bias"][: model.dense_layers] += 1  # dense layers have a row of zeros and no tensor
  assert all((leaf == 1).all() for leaf in jax.tree.leaves(count))


@given(models())
@settings(max_examples=40, deadline=None)
def test_a_config_survives_the_way_out_and_back(model):
  config = hf_config.to_json(model, dtype="float32")
  assert hf_config.to_model(config, mtp_depth=model.mtp_depth) == model
  assert hf_config.to_json(model, dtype="float32", base=config) == config


@given(models(), models())
@settings(max_examples=40, deadline=None)
def test_export_of_a_changed_model_rewrites_what_changed_and_keeps_the_rest(first, second):
  base = hf_config.to_json(first, dtype="float32") | {"bos_token_id": 1, "note": "kept"}
  base["rope_parameters"] = {"rope_type": "default", "rope_theta": base.pop("rope_theta")}
  config = hf_config.to_json(second, dtype="float32", base=base)
  assert hf_config.to_model(config, mtp_depth=second.mtp_depth) == second
  assert config["note"] == "kept" and config["bos_token_id"] == 1


def moe_config(**changes) -> dict:
  base = dict(
    model_type="ernie4_5_moe", vocab_size=11, hidden_size=8, intermediate_size=10,
    num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1, moe_intermediate_size=3,
    moe_k=2, moe_num_experts=4, moe_num_shared_experts=1,
  )  # fmt: skip
  return base | changes


def test_absent_keys_mean_the_published_defaults():
  model = hf_config.to_model(moe_config())
  assert (model.dense_layers, model.tie_embeddings, model.rope_base) == (1, True, 5e5)
  assert (model.norm_eps, model.head_dim) == (1e-5, 4)
  nothing = dict.fromkeys(("rms_norm_eps", "rope_theta", "rope_parameters"))
  assert hf_config.to_model(moe_config(**nothing)) == model
  assert hf_config.to_model(moe_config(rope_parameters=dict(rope_theta=None))) == model
  dense = {k: v for k, v in moe_config(model_type="ernie4_5").items() if "moe" not in k}
  assert hf_config.to_model(dense).head_dim == 128
  assert hf_config.to_model(dense | {"head_dim": None}).head_dim == 4


@pytest.mark.parametrize(
  ("key", "value"),
  [
    ("model_type", "llama"),
    ("use_bias", True),
    ("hidden_act", "gelu"),
    ("moe_norm_min", 1e-3),
    ("rope_scaling", {"type": "linear", "factor": 2}),
    ("rope_parameters", {"rope_type": "yarn", "rope_theta": 1e4}),
    ("quantization_config", {"bits": 4}),
    ("moe_layer_interval", 2),
    ("moe_layer_end_index", 1),
    ("moe_num_experts", [64, 64]),
    ("moe_k", 9),
    ("hidden_size", None),
    ("model_type", ["ernie4_5"]),
    ("rms_norm_eps", "x"),
    ("rms_norm_eps", float("nan")),
    ("rope_theta", [1e4]),
    ("rope_parameters", [1]),
    ("rope_parameters", {"rope_theta": True}),
  ],
)
def test_a_config_we_do_not_implement_is_refused_by_the_name_of_its_key(key, value):
  named = {"moe_k": "top_k", "rope_parameters": "rope_"}.get(key, key)
  with pytest.raises(UserError, match=rf"config\.json: .*{named}"):
    hf_config.to_model(moe_config(**{key: value}))


@pytest.mark.parametrize(
  ("key", "value"),
  [
    ("qk_norm", True),
    ("shared_width", 4),
    ("mtp_width", 12),
    ("vision", QuantizerConfig()),
    ("audio", AudioConfig(heads="last")),
  ],
)
def test_a_model_that_ernie45_cannot_express_is_refused_by_the_name_of_its_key(key, value):
  model = hf_config.to_model(moe_config(), mtp_depth=1)
  with pytest.raises(UserError, match=f"config.model.{key}"):
    hf_config.to_json(dataclasses.replace(model, **{key: value}), dtype="float32")
