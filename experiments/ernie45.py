"""The backbone of ERNIE 4.5, 21B-A3B: one config like any other, here for training it from scratch.

  python -m ernie_jax.train --config=experiments/ernie45.py --workdir=runs/ernie45 \
    --config.text.tokenizer=FILE

The shape is that of the published checkpoint (21.8 B parameters, 3 B active for a token), which
`python -m ernie_jax.convert from-hf` reads into this very model. Batch and learning rate are our choice:
it was never trained here. Parameters, gradients and AdamW's two moments take 350 GB in float32, divided
over all devices.

`:tiny` keeps what makes it ERNIE 4.5 (a dense first layer, no
normalised queries, tied embeddings, one MTP module) and runs on a laptop in seconds.
"""

from ernie_jax.train.experiment import default_config, make_tiny


def get_config(arg: str = ""):
  """arg: "" or "tiny"."""
  config = default_config()
  config.name = "ernie45"

  config.model.update(
    vocab_size=103424,
    depth=28,
    width=2560,
    heads=20,
    kv_heads=4,
    head_dim=128,
    qk_norm=False,
    rope_base=5e5,
    experts=64,
    top_k=6,
    expert_width=1536,
    shared_width=2 * 1536,
    dense_layers=1,
    dense_width=12288,
    mtp_depth=1,
    mtp_width=12288,
    dtype="bfloat16",
    remat="full",
  )
  # A plain model: every draw is the full member.
  config.elastic.update(depth_full=1.0, width_full=1.0, sparsity_full=1.0)

  config.data.update(row_length=4096, rows_per_batch=256)
  config.train.steps = 100_000
  config.train.schedule.update(peak=2.2e-4, warmup_steps=2000)
  config.train.update(checkpoint_every=1000, evaluate_every=1000)
  config.mesh.update(data=1, fsdp=-1)

  if arg == "tiny":
    make_tiny(config)
    config.model.update(dtype="float32", remat="none")
    config.mesh.update(data=-1, fsdp=1)
    config.train.schedule.peak = 4e-3
  elif arg:
    raise ValueError(f"unknown argument {arg!r}; the only one is 'tiny'")
  return config
