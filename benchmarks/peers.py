"""Our training step and decoder against Hugging Face transformers' on the same machine, in one run.

  python -m benchmarks.peers [--json=PATH]

Both sides have the same shape: 8 layers, width 256, 4 heads of 64 (2 key-value heads), 64 experts of
width 128, top-4, one shared expert, vocabulary 8,192, batch 8 x 512, float32, gradients clipped at 1,
AdamW. The peer is `Ernie4_5_MoeForCausalLM` with the fastest of its experts back ends on this machine
(tried first) and PyTorch's fused AdamW. Each side is a process of its own, as in use. Rounds alternate
between the two; medians are quoted, because absolute times drift. Needs the `parity` extra.
"""

import dataclasses
import functools
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable

import numpy as np
from absl import flags

from ernie_jax import cli

JSON = flags.DEFINE_string("json", None, "Write the figures to this file.")
ROUNDS = flags.DEFINE_integer("rounds", 7, "Timed rounds of each side.")
DECODE_TOKENS = flags.DEFINE_integer("decode_tokens", 128, "Tokens decoded in each round.")

LAYERS, WIDTH, HEADS, KV_HEADS, EXPERTS, TOP_K, EXPERT_WIDTH = 8, 256, 4, 2, 64, 4, 128
VOCAB, ROWS, LENGTH, PROMPT = 8192, 8, 512, 16
# Per use: "batched_mm" copies a weight matrix for each token and needs 40 GB in training.
BACK_ENDS = {"step": ("eager", "grouped_mm"), "decode": ("eager", "batched_mm", "grouped_mm")}


@dataclasses.dataclass
class Side:
  """What a contestant does: `step()` trains one batch, `decode()` continues one prompt."""

  name: str
  step: Callable[[], None]
  decode: Callable[[], None]


class Contestant:
  """A side in a process of its own; `step` and `decode` return the seconds that they took there."""

  def __init__(self, make: Callable[[np.ndarray, int], Side]):
    """`make` gives the side for tokens [B, L + 1] and a number of tokens to decode."""
    context = multiprocessing.get_context("spawn")
    self._pipe, theirs = context.Pipe()
    count = DECODE_TOKENS.value
    self._process = context.Process(target=_serve, args=(theirs, make, count), daemon=True)
    self._process.start()
    self.name = self._pipe.recv()

  def step(self) -> float:
    return self._ask("step")

  def decode(self) -> float:
    return self._ask("decode")

  def close(self) -> None:
    self._pipe.send(None)
    self._process.join()

  def _ask(self, what: str) -> float:
    self._pipe.send(what)
    return self._pipe.recv()


def _serve(pipe, make, count: int) -> None:
  tokens = np.random.default_rng(0).integers(64, VOCAB, (ROWS, LENGTH + 1))
  side = make(tokens, count)
  pipe.send(side.name)
  while what := pipe.recv():
    pipe.send(_seconds(getattr(side, what)))


def _seconds(run: Callable[[], None]) -> float:
  start = time.perf_counter()
  run()
  return time.perf_counter() - start


def main(argv) -> None:
  del argv
  peer, ours = Contestant(make_peer), Contestant(make_ours)
  train = _interleave({"peer": peer.step, "ours": ours.step}, rounds=ROUNDS.value)
  decode = _interleave({"peer": peer.decode, "ours": ours.decode}, rounds=ROUNDS.value)
  peer.close(), ours.close()
  rate = lambda count, seconds: {k: count / s for k, s in seconds.items()}
  train_rate, decode_rate = rate(ROWS * LENGTH, train), rate(DECODE_TOKENS.value, decode)
  figures = {
    "cores": os.cpu_count(),
    "peer": peer.name,
    "train_tokens_per_s": train_rate,
    "decode_tokens_per_s": decode_rate,
    "train_ratio": train_rate["ours"] / train_rate["peer"],
    "decode_ratio": decode_rate["ours"] / decode_rate["peer"],
  }
  print(f"{'':24}{'transformers':>14}{'ernie_jax':>12}{'ratio':>8}   ({os.cpu_count()} cores)")
  for name in ("train", "decode"):
    r = figures[f"{name}_tokens_per_s"]
    ratio = figures[f"{name}_ratio"]
    print(f"{name + ' tokens/s':24}{r['peer']:14.1f}{r['ours']:12.1f}{ratio:8.2f}")
  print(f"transformers ran with {peer.name}")
  if JSON.value:
    with open(JSON.value, "w") as f:
      json.dump(figures, f, indent=2)


def make_peer(tokens: np.ndarray, count: int) -> Side:
  """transformers' model with its fastest experts back end for each of training and decoding."""
  import torch
  import transformers

  torch.manual_seed(0)
  config = transformers.Ernie4_5_MoeConfig(
    vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
    num_key_value_heads=KV_HEADS, head_dim=WIDTH // HEADS, intermediate_size=4 * WIDTH,
    moe_intermediate_size=EXPERT_WIDTH, moe_num_experts=EXPERTS, moe_k=TOP_K,
    moe_num_shared_experts=1, moe_layer_start_index=0, moe_layer_interval=1,
    max_position_embeddings=4096, tie_word_embeddings=True, use_bias=False,
    pad_token_id=0, bos_token_id=1, eos_token_id=None,
  )  # fmt: skip
  model = transformers.Ernie4_5_MoeForCausalLM(config).float()
  optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True)
  inputs = torch.from_numpy(tokens[:, :-1])
  prompt = inputs[:1, :PROMPT]

  def step():
    model.train()
    loss = model(input_ids=inputs, labels=inputs, use_cache=False).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    loss.item()

  def decode():
    model.eval()
    with torch.inference_mode():
      model.generate(prompt, do_sample=False, max_new_tokens=count, min_new_tokens=count)

  def with_backend(name: str, run: Callable[[], None]) -> Callable[[], None]:
    def wrapped():
      model.set_experts_implementation(name)
      run()

    return wrapped

  chosen = {}
  for what, run in (("step", step), ("decode", decode)):
    candidates = {name: with_backend(name, run) for name in BACK_ENDS[what]}
    timed = {name: functools.partial(_seconds, one) for name, one in candidates.items()}
    times = _interleave(timed, rounds=1)
    chosen[what] = min(times, key=times.get)
  return Side(
    name=f"{chosen['step']} experts in training, {chosen['decode']} in decoding",
    step=with_backend(chosen["step"], step),
    decode=with_backend(chosen["decode"], decode),
  )


def make_ours(tokens: np.ndarray, count: int) -> Side:
  """Our trainer's own step, and the decoder that `ernie_jax.generate` runs."""
  import jax
  import jax.numpy as jnp

  from ernie_jax.backbone.config import ModelConfig
  from ernie_jax.elastic.family import ElasticConfig
  from ernie_jax.generate.decode import Decoder
  from ernie_jax.generate.sampling import SamplingConfig
  from ernie_jax.train import state as state_lib
  from ernie_jax.train.optimizer import OptimizerConfig, make_optimizer
  from ernie_jax.train.pretrain import ObjectiveConfig, Pretrain
  from ernie_jax.train.schedule import ScheduleConfig, make_schedule
  from ernie_jax.train.step import make_step

  config = ModelConfig(
    vocab_size=VOCAB, depth=LAYERS, width=WIDTH, heads=HEADS, kv_heads=KV_HEADS,
    head_dim=WIDTH // HEADS, qk_norm=False, experts=EXPERTS, top_k=TOP_K,
    expert_width=EXPERT_WIDTH, shared_width=EXPERT_WIDTH,
    top_layers=LAYERS,  # unrolled: a tenth faster than the scan here, for a longer compilation
  )  # fmt: skip
  plain = ElasticConfig(depth_full=1.0, width_full=1.0, sparsity_full=1.0)
  task = Pretrain(config, plain, ObjectiveConfig())
  schedule = make_schedule(ScheduleConfig(kind="constant", peak=1e-4, warmup_steps=0), 1000)
  params = jax.eval_shape(lambda: state_lib.initial_params(task, 0))
  optimizer = make_optimizer(OptimizerConfig(weight_decay=0.01), schedule, params)
  state = state_lib.create(task, optimizer, 0)
  run = jax.jit(make_step(task, optimizer, schedule), donate_argnums=0)
  rows = jax.tree.map(lambda x: jnp.asarray(x)[None], text_rows(tokens))

  def step():
    nonlocal state
    state, report = run(state, rows, jnp.asarray(1))
    jax.block_until_ready(report)

  decoder = Decoder(config, cache_length=PROMPT + count)
  weights = decoder.load(state.params, state.variables.bias)
  prompt = tokens[0, :PROMPT].tolist()

  def decode():
    decoder.generate(
      weights,
      [prompt],
      sampling=SamplingConfig(temperature=0.0),
      max_new_tokens=count,
    )

  return Side(name="ernie_jax", step=step, decode=decode)


def text_rows(tokens: np.ndarray):
  """A batch of rows [B, L], each one document, from tokens [B, L + 1]."""
  import jax

  from ernie_jax.sequence import Text, lay_out

  rows = [lay_out([Text(tuple(map(int, t)))]) for t in tokens]
  return jax.tree.map(lambda *x: np.stack(x)[:, :-1], *rows)


def _interleave(runs: dict[str, Callable[[], float]], *, rounds: int) -> dict[str, float]:
  """Median seconds of each, one untimed round first, the sides taking turns.

  The pause lets the other side's threads, which wait for work awake for a while, fall asleep.
  """
  seconds = {name: [] for name in runs}
  for i in range(rounds + 1):
    for name, run in runs.items():
      time.sleep(0.5)
      taken = run()
      if i:
        seconds[name].append(taken)
  return {name: statistics.median(s) for name, s in seconds.items()}


if __name__ == "__main__":
  cli.run(main)
