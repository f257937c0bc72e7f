"""The config.json of ERNIE 4.5 text models and our `ModelConfig`, each made from the other.

A file may leave out what equals the published default, so those defaults stand here. What our
backbone does not do (bias terms, scaled rotary positions, experts in every other layer) is refused by
the name of the key.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ernie_jax.backbone.config import ModelConfig, RouterConfig
from ernie_jax.convert.json_values import number, present, table
from ernie_jax.errors import UserError

DENSE, MOE = "ernie4_5", "ernie4_5_moe"
ARCHITECTURES = {DENSE: "Ernie4_5ForCausalLM", MOE: "Ernie4_5_MoeForCausalLM"}
_DENSE_HEAD_DIM = 128  # default of the dense config; the other takes hidden_size / heads
_ROPE_BASE = 500_000.0
_NORM_EPS = 1e-5

# The one value of a key that our backbone implements, which is also the value of an absent key.
_ONLY = {
  "hidden_act": "silu",
  "use_bias": False,
  "rope_scaling": None,
  "quantization_config": None,
}
_ONLY_MOE = {"moe_norm_min": 1e-12, "moe_gate_act": "softmax"}


def to_model(config: Mapping[str, Any], *, mtp_depth: int = 0) -> ModelConfig:
  """The `ModelConfig` of a checkpoint.

  Args:
    config: the parsed config.json.
    mtp_depth: how many MTP modules the checkpoint really holds; `num_nextn_predict_layers` may
      promise one that transformers dropped when it saved.

  Raises:
    UserError: another architecture, an absent or malformed key, or a value we do not implement.
  """
  kind = config.get("model_type")
  if kind not in (DENSE, MOE):
    known = ", ".join(ARCHITECTURES)
    raise UserError(f"config.json: model_type {kind!r} is not supported; known: {known}")
  only = _ONLY | _ONLY_MOE if kind == MOE else _ONLY
  for key, value in only.items():
    if config.get(key, value) not in (value, None):
      raise UserError(f"config.json: {key} is {config[key]!r}; only {value!r} is supported")
  heads = _int(config, "num_attention_heads")
  width, intermediate = _int(config, "hidden_size"), _int(config, "intermediate_size")
  depth = _int(config, "num_hidden_layers")
  fields = dict(
    vocab_size=_int(config, "vocab_size"),
    depth=depth,
    width=width,
    heads=heads,
    kv_heads=_int(config, "num_key_value_heads", heads),
    head_dim=_head_dim(config, kind, width // max(heads, 1)),
    qk_norm=False,
    rope_base=_rope_base(config),
    dense_width=intermediate,
    tie_embeddings=bool(config.get("tie_word_embeddings", True)),
    mtp_depth=mtp_depth,
    mtp_width=intermediate if mtp_depth else 0,
    norm_eps=_float(config, "rms_norm_eps", _NORM_EPS),
    dtype="bfloat16" if _dtype(config) == "bfloat16" else "float32",
  )
  fields |= _moe_fields(config, depth) if kind == MOE else _no_experts(depth)
  try:
    return ModelConfig(**fields)
  except (TypeError, ValueError) as e:
    raise UserError(f"config.json: {e}") from e


def to_json(model: ModelConfig, *, dtype: str, base: Mapping[str, Any] | None = None) -> dict:
  """The config.json of a model.

  Args:
    dtype: type of the exported weights.
    base: the config.json it was imported with. Its keys are kept as they are spelled; only those
      whose meaning changed are written anew.

  Raises:
    UserError: the model has a part that ERNIE 4.5 lacks; the message names its config key.
  """
  _check_exportable(model)
  wanted = _fields(model, dtype)
  if base is None or base.get("model_type") != wanted["model_type"]:
    return {k: v for k, v in wanted.items() if v is not None}
  was = _fields(to_model(base, mtp_depth=model.mtp_depth), _dtype(base) or dtype)
  result = dict(base)
  for key, value in wanted.items():
    if value == was[key]:
      continue
    if key == "rope_theta" and "rope_parameters" in base:
      result["rope_parameters"] = {**(base["rope_parameters"] or {}), key: value}
    elif key == "torch_dtype" and "dtype" in base:
      result["dtype"] = value
    elif value is None:
      result.pop(key, None)
    else:
      result[key] = value
  return result


def _fields(model: ModelConfig, dtype: str) -> dict[str, Any]:
  """All keys of config.json that a model decides; None for a key to leave out."""
  kind = MOE if model.moe_layers else DENSE
  usual = model.width // model.heads if kind == MOE else None
  fields = {
    "architectures": [ARCHITECTURES[kind]],
    "model_type": kind,
    "hidden_act": "silu",
    "use_bias": False,
    "vocab_size": model.vocab_size,
    "hidden_size": model.width,
    "intermediate_size": _intermediate(model),
    "num_hidden_layers": model.depth,
    "num_attention_heads": model.heads,
    "num_key_value_heads": model.kv_heads,
    "head_dim": None if model.head_dim == usual else model.head_dim,
    "rms_norm_eps": model.norm_eps,
    "rope_theta": model.rope_base,
    "tie_word_embeddings": model.tie_embeddings,
    "num_nextn_predict_layers": model.mtp_depth or None,
    "torch_dtype": dtype,
  }
  if kind == MOE:
    fields |= {
      "moe_intermediate_size": model.expert_width,
      "moe_k": model.top_k,
      "moe_num_experts": model.experts,
      "moe_num_shared_experts": model.shared_width // model.expert_width,
      "moe_layer_start_index": model.dense_layers,
      "moe_layer_end_index": model.depth - 1,
      "moe_layer_interval": 1,
      "moe_norm_min": _ONLY_MOE["moe_norm_min"],
    }
  return fields


def _intermediate(model: ModelConfig) -> int:
  """Width of dense MLPs; without any, a value that nothing reads but that transformers wants."""
  return model.dense_width or model.mtp_width or model.expert_width


def _check_exportable(model: ModelConfig) -> None:
  router = dataclasses.replace(model.router, bias_rate=0.0, balance_loss=0.0, z_loss=0.0)
  dense = {model.dense_width} if model.dense_layers else set()
  dense |= {model.mtp_width} if model.mtp_depth else set()
  problems = {
    "vision must be None": model.vision is not None,
    "audio must be None": model.audio is not None,
    "qk_norm must be False": model.qk_norm,
    "router must be a renormalised softmax of scale 1": (
      bool(model.moe_layers) and router != RouterConfig(bias_rate=0.0)
    ),
    "shared_width must be a multiple of expert_width": (
      bool(model.moe_layers) and model.shared_width % model.expert_width != 0
    ),
    "mtp_width must equal dense_width": len(dense) > 1,
  }
  for problem, found in problems.items():
    if found:
      raise UserError(f"ERNIE 4.5 has no such model: config.model.{problem}")


def _moe_fields(config: Mapping[str, Any], depth: int) -> dict[str, Any]:
  expert_width = _int(config, "moe_intermediate_size")
  return dict(
    experts=_int(config, "moe_num_experts"),
    top_k=_int(config, "moe_k"),
    expert_width=expert_width,
    shared_width=_int(config, "moe_num_shared_experts", 2) * expert_width,
    dense_layers=_dense_layers(config, depth),
  )


def _no_experts(depth: int) -> dict[str, Any]:
  return dict(experts=1, top_k=1, expert_width=1, shared_width=0, dense_layers=depth)


def _dense_layers(config: Mapping[str, Any], depth: int) -> int:
  """How many layers are dense, all of them below the layers with experts."""
  start = _int(config, "moe_layer_start_index", 1)
  end = _int(config, "moe_layer_end_index", -1)
  end = depth - 1 if end == -1 else end
  interval = max(_int(config, "moe_layer_interval", 1), 1)
  moe = [(i + 1) % interval == 0 and start <= i <= end for i in range(depth)]
  dense = depth - sum(moe)
  if any(moe[:dense]):
    key = "moe_layer_interval" if interval != 1 else "moe_layer_end_index"
    raise UserError(
      f"config.json: {key} is {config[key]!r}; dense layers above layers with experts are not"
      " supported"
    )
  return dense


def _head_dim(config: Mapping[str, Any], kind: str, usual: int) -> int:
  # A null head_dim means the usual one; only its absence means the dense config's default.
  default = usual if kind == MOE or "head_dim" in config else _DENSE_HEAD_DIM
  return _int(config, "head_dim", default)


def _rope_base(config: Mapping[str, Any]) -> float:
  """`rope_parameters.rope_theta` (transformers 5) or `rope_theta` (before)."""
  parameters = table(config, "rope_parameters")
  kind = present(parameters, "rope_type", "default")
  if kind != "default":
    raise UserError(
      f"config.json: rope_parameters.rope_type is {kind!r}; only 'default' is supported"
    )
  return _float(parameters, "rope_theta", _float(config, "rope_theta", _ROPE_BASE))


def _dtype(config: Mapping[str, Any]) -> str | None:
  return config.get("dtype", config.get("torch_dtype"))


def _float(config: Mapping[str, Any], key: str, default: float) -> float:
  return number(present(config, key, default), key)


def _int(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
  value = present(config, key, default)
  if value is None:
    raise UserError(f"config.json: there is no {key}")
  if not isinstance(value, int) or isinstance(value, bool):
    raise UserError(f"config.json: {key} must be a whole number, got {value!r}")
  return value
