"""The report's elastic ablation (ERNIE 5.0, section 5) scaled down: 16 layers, 64 experts, top-8, MTP.

  ./launch/local.sh python -m ernie_jax.train --config=experiments/ablation.py --workdir=runs/ablation

The report: 454 M active of 3.2 B parameters, 250 B tokens. Here: the same shape at width 256, for one
accelerator (a CPU takes days); members at the sizes of the report's tables 9 to 11. `:tiny` runs anywhere.
"""

from ernie_jax.train.experiment import default_config, make_tiny


def get_config(arg: str = ""):
  """arg: "" or "tiny"."""
  config = default_config()
  config.name = "ablation"

  config.model.update(vocab_size=16384, depth=16, width=256, heads=8, kv_heads=2, head_dim=32)
  config.model.update(experts=64, top_k=8, expert_width=128, shared_width=128)
  config.model.update(mtp_depth=1, mtp_width=512, remat="dots", dtype="bfloat16")
  # The report's ablation text: depth stays full in 80 % of rows, widths are 64 and 32.
  config.elastic.update(depth_full=0.8, width_full=0.8, sparsity_full=0.8, widths=(32,))
  config.elastic.members = ("12x64x8", "16x32x8", "16x64x4", "16x64x2", "16x64x1", "12x32x4")

  config.data.update(row_length=1024, rows_per_batch=64, bpe_dropout=0.1)
  config.train.update(steps=20_000, log_every=50, checkpoint_every=1000, evaluate_every=500)
  config.train.optimizer.name = "muon"
  config.train.schedule.update(peak=1e-3, warmup_steps=500)
  config.train.ramp.update(start=1, end=4, steps=5000)
  config.objective.mtp_switch = 16_000

  if arg == "tiny":
    make_tiny(config)
    config.train.ramp.update(start=1, end=2, steps=20)
    config.elastic.members = ("2x4x2", "3x2x1")
  elif arg:
    raise ValueError(f"unknown argument {arg!r}; the only one is 'tiny'")
  return config
