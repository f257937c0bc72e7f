"""transformers as the twin: tiny random ERNIE 4.5 models, and the questions that both sides answer.

Run as a program (`python tests/convert/ernie45_twin.py`, with torch and transformers 5.23), it writes
the golden file that keeps the comparison alive where neither is installed.
"""

import json
import pathlib
import tempfile

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file

VOCAB = 97
GOLDEN = pathlib.Path(__file__).parent / "goldens" / "ernie45_moe.npz"
SHAPES = {
  "moe_shared": dict(
    hidden_size=32, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=3,
    intermediate_size=48, moe_intermediate_size=12, moe_num_experts=8, moe_k=3,
    moe_num_shared_experts=2, moe_layer_start_index=1, tie_word_embeddings=True,
  ),
  "moe_untied": dict(
    hidden_size=24, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=4,
    intermediate_size=40, moe_intermediate_size=20, moe_num_experts=5, moe_k=2,
    moe_num_shared_experts=1, moe_layer_start_index=2, tie_word_embeddings=False,
    rope_parameters={"rope_type": "default", "rope_theta": 1e4}, rms_norm_eps=1e-6,
  ),
  "moe_everywhere": dict(
    hidden_size=48, num_attention_heads=6, num_key_value_heads=6, num_hidden_layers=2,
    intermediate_size=16, moe_intermediate_size=16, moe_num_experts=6, moe_k=6,
    moe_num_shared_experts=0, moe_layer_start_index=0, tie_word_embeddings=True,
  ),
  "moe_one_layer": dict(
    hidden_size=16, num_attention_heads=2, num_key_value_heads=2, num_hidden_layers=1, head_dim=12,
    intermediate_size=16, moe_intermediate_size=8, moe_num_experts=16, moe_k=1,
    moe_num_shared_experts=1, moe_layer_start_index=0, tie_word_embeddings=False,
  ),
  "dense": dict(
    hidden_size=32, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=3, head_dim=16,
    intermediate_size=56, tie_word_embeddings=True,
  ),
  "dense_untied": dict(
    hidden_size=40, num_attention_heads=2, num_key_value_heads=2, num_hidden_layers=1, head_dim=None,
    intermediate_size=24, tie_word_embeddings=False,
  ),
  "golden": dict(
    hidden_size=16, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=3,
    intermediate_size=24, moe_intermediate_size=8, moe_num_experts=4, moe_k=2,
    moe_num_shared_experts=1, moe_layer_start_index=1, tie_word_embeddings=False,
  ),
}  # fmt: skip
PARITY = [name for name in SHAPES if name != "golden"]


def make(name: str, *, seed: int = 0):
  """A random model with weights and router bias large enough that an error in any of them shows."""
  moe = not name.startswith("dense")
  kind = "Ernie4_5_Moe" if moe else "Ernie4_5"
  config = getattr(transformers, "Ernie4_5_MoeConfig" if moe else "Ernie4_5Config")(
    vocab_size=VOCAB, initializer_range=0.3, max_position_embeddings=256, **SHAPES[name]
  )
  config._attn_implementation = "eager"
  torch.manual_seed(seed)
  model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
  with torch.no_grad():
    for key, value in model.named_parameters():
      if "e_score_correction_bias" in key:
        value.normal_(std=0.1)
      elif "norm" in key:
        value.uniform_(0.5, 1.5)
  if moe:
    model.set_experts_implementation("eager")
  return model


def logits(model, ids: np.ndarray) -> np.ndarray:
  """transformers' logits [B, L, V] for ids [B, L]."""
  with torch.no_grad():
    return model(torch.from_numpy(ids), use_cache=False).logits.float().numpy()


def greedy(model, ids: np.ndarray, count: int) -> np.ndarray:
  """transformers' own greedy continuation of ids [B, L]: [B, count]; the end token is like any other."""
  model.generation_config.eos_token_id = None
  out = model.generate(torch.from_numpy(ids), max_new_tokens=count, do_sample=False, pad_token_id=0)
  return out[:, ids.shape[1] :].numpy()


class MultiTokenPrediction(torch.nn.Module):
  """One MTP module made of transformers' own parts; transformers itself drops these weights."""

  def __init__(self, model):
    super().__init__()
    moe = transformers.models.ernie4_5_moe.modeling_ernie4_5_moe
    config = type(model.config)(**{**model.config.to_dict(), "moe_layer_start_index": 99})
    config._attn_implementation = "eager"
    width, eps = config.hidden_size, config.rms_norm_eps
    modules = dict(
      mtp_block=moe.Ernie4_5_MoeDecoderLayer(config, 0),
      mtp_emb_norm=moe.Ernie4_5_MoeRMSNorm(width, eps),
      mtp_hidden_norm=moe.Ernie4_5_MoeRMSNorm(width, eps),
      mtp_linear_proj=torch.nn.Linear(2 * width, width, bias=False),
    )
    for name, module in modules.items():
      self.add_module(name, torch.nn.ModuleList([module]))
    with torch.no_grad():
      for value in self.parameters():
        value.normal_(std=0.3) if value.ndim > 1 else value.uniform_(0.5, 1.5)

  def tensors(self) -> dict[str, torch.Tensor]:
    """Its weights under their names on disk."""
    return {f"model.{name}": value for name, value in self.state_dict().items()}

  @torch.no_grad()
  def logits(self, model, ids: np.ndarray) -> np.ndarray:
    """[B, L - 1, V]: position i knows the ids up to i + 1 and predicts the one after."""
    ids, seen = torch.from_numpy(ids), []
    hook = model.model.norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(ids, use_cache=False)
    hook.remove()
    hidden = self.mtp_hidden_norm[0](seen[0][:, :-1])
    ahead = self.mtp_emb_norm[0](model.model.embed_tokens(ids[:, 1:]))
    x = self.mtp_linear_proj[0](torch.cat([ahead, hidden], dim=-1))
    length = x.shape[1]
    positions = model.model.rotary_emb(x, torch.arange(length)[None])
    mask = torch.full((length, length), -torch.inf).triu(1)[None, None]
    x = self.mtp_block[0](x, position_embeddings=positions, attention_mask=mask)
    return model.lm_head(model.model.norm(x)).numpy()


def write_golden(path: pathlib.Path = GOLDEN) -> None:
  """One small model with its tensors on disk, and transformers' answers."""
  model = make("golden", seed=1)
  mtp = MultiTokenPrediction(model)
  ids = np.random.default_rng(0).integers(3, VOCAB, (2, 12))
  with tempfile.TemporaryDirectory() as directory:
    model.save_pretrained(directory)
    config = json.loads((pathlib.Path(directory) / "config.json").read_text())
    tensors = load_file(pathlib.Path(directory) / "model.safetensors")
  tensors |= {name: value.numpy() for name, value in mtp.tensors().items()}
  np.savez_compressed(
    path,
    config=json.dumps(config | {"num_nextn_predict_layers": 1}),
    ids=ids,
    logits=logits(model, ids),
    mtp_logits=mtp.logits(model, ids),
    greedy=greedy(model, ids, 8),
    **{f"tensor:{name}": value for name, value in tensors.items()},
  )


if __name__ == "__main__":
  write_golden()
