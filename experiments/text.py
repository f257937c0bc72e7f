"""Text alone: an elastic, ultra-sparse model of Python source, from scratch, on a laptop.

  ./launch/local.sh python -m ernie_jax.train --config=experiments/text.py --workdir=runs/text

`:tiny` runs all of it in under a minute.
"""

from ernie_jax.train.experiment import default_config, make_tiny


def get_config(arg: str = ""):
  """arg: "" or "tiny"."""
  config = default_config()
  config.name = "text"

  config.model.vocab_size = 4096
  config.model.depth = 6
  config.model.width = 128
  config.model.heads = 4
  config.model.kv_heads = 2
  config.model.head_dim = 32
  config.model.experts = 16
  config.model.top_k = 4
  config.model.expert_width = 64
  config.model.shared_width = 64

  config.elastic.min_depth = 3  # no member is shallower; 1 to 5 layers cost the full model more
  config.elastic.first_step = 1200  # the family joins when the loss no longer falls steeply
  config.elastic.members = ("6x16x2", "6x16x1", "6x8x4", "4x16x4", "3x16x4", "3x8x2")

  config.data.row_length = 256
  config.data.rows_per_batch = 8  # twice the rows in half the steps end 15 % higher

  config.train.steps = 2000
  config.train.optimizer.name = "muon"  # 1.49 bits per byte after 400 steps; AdamW 1.71
  config.train.schedule.peak = 4e-3
  config.train.schedule.warmup_steps = 80
  config.train.checkpoint_every = 200
  config.train.evaluate_every = 200

  if arg == "tiny":
    make_tiny(config)
    config.elastic.members = ("3x4x1", "2x2x2")
  elif arg:
    raise ValueError(f"unknown argument {arg!r}; the only one is 'tiny'")
  return config
