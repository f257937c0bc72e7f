"""One model that listens and speaks: speech and words from scratch, elastic, at 12.5 frames a second.

  ./launch/local.sh python -m ernie_jax.train --config=experiments/audio_codec.py --workdir=runs/codec
  ./launch/local.sh python -m ernie_jax.train --config=experiments/speech.py --workdir=runs/speech \
    --config.audio.codec=runs/codec

The first command trains the codec that the second one freezes. 18 minutes on one core. Arguments,
separated by commas: `last` (all heads on the last layer, for comparison), `tiny` (seconds, after the
codec's `:tiny`).
"""

from ernie_jax.backbone.config import AudioConfig
from ernie_jax.data.speech_rows import SpeechDataConfig
from ernie_jax.data.world.speech_set import SpeechSource
from ernie_jax.train.experiment import default_config, make_tiny, plain


def get_config(arg: str = ""):
  """arg: any of "tiny", "last", separated by commas."""
  config = default_config()
  config.name = "speech"
  options = [option for option in arg.split(",") if option]
  for option in options:
    if option not in ("tiny", "last"):
      raise ValueError(f"unknown argument {option!r}; known: tiny, last")
  tiny = "tiny" in options

  # So small a vocabulary spells words in letters and syllables, which learns to speak sooner than words.
  config.model.update(vocab_size=384, depth=6, width=128, heads=4, kv_heads=2, head_dim=32)
  config.model.update(experts=16, top_k=4, expert_width=64, shared_width=64, top_layers=4)
  audio = AudioConfig(levels=4, codes=256, heads="last" if "last" in options else "depth")
  config.model.audio = plain(audio)
  config.elastic.update(depth_full=0.75, width_full=0.8, sparsity_full=0.8, min_depth=4)
  config.elastic.members = ("6x16x2", "6x16x1", "6x8x4", "5x16x4", "4x8x2")

  world = SpeechSource()
  if tiny:
    world = SpeechSource(train=24, validation=4, unseen_speakers=2, unseen_pairs=1)
  config.data.speech = plain(SpeechDataConfig(worlds=(world,)))
  config.data.update(sources=(), row_length=256, rows_per_batch=8, bpe_dropout=0.1)
  config.text.training_chars = 100_000
  config.objective.update(understanding_weight=1.0, audio_weight=2.0)
  config.evaluation.update(rows=64, prompt="")

  # A flat schedule: one that decays on a plateau looks like a lack of capacity.
  config.train.update(steps=2800, log_every=20, evaluate_every=300, checkpoint_every=300)
  config.train.optimizer.update(name="muon", b2=0.98)
  config.train.schedule.update(peak=4e-3, warmup_steps=60)

  if tiny:
    make_tiny(config)
    # A head needs a layer, and layers take long to compile.
    config.model.update(vocab_size=384, top_layers=2)
    config.model.audio.update(levels=2, codes=16)
    config.data.update(row_length=128, rows_per_batch=2)
    config.text.training_chars = 2_000
    config.elastic.members = ("3x4x1", "2x2x2")
  return config
