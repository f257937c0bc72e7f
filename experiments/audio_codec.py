"""The codec of the world's speech, 12.5 frames of 4 x 256 codes a second (400 bit/s), on a laptop.

  ./launch/local.sh python -m ernie_jax.train --config=experiments/audio_codec.py --workdir=runs/codec

Arguments, separated by commas: `general` (a decoder that supposes nothing of the synthesis), `adversary`
(discriminators from the middle of the run on: eight times the time of a step on a CPU), `tiny` (all of it in seconds).
`--config.teacher.kind=whisper --config.teacher.path=WORKDIR` aligns the first level to a converted Whisper encoder.
"""

from ernie_jax.train.audio_codec_run import default_config


def get_config(arg: str = ""):
  """arg: any of "tiny", "general", "adversary", separated by commas."""
  config = default_config()
  options = [option for option in arg.split(",") if option]
  for option in options:
    if option not in ("tiny", "general", "adversary"):
      raise ValueError(f"unknown argument {option!r}; known: tiny, general, adversary")

  world = {"train": 4_000}
  config.train.steps = 1200
  config.train.schedule.peak = 2e-3
  config.train.schedule.warmup_steps = 40
  config.train.schedule.decay_fraction = 0.5
  # The gradient of pitch is the noisiest: with more of it spectra, and phones, are learned later.
  config.loss.pitch = 0.2
  config.train.optimizer.weight_decay = 0.0
  config.train.log_every = 50
  config.train.evaluate_every = 600
  config.train.checkpoint_every = 600
  if "general" in options:
    config.codec.decoder.kind = "istft"
    config.train.steps = 6000
    config.train.evaluate_every = config.train.checkpoint_every = 1000
  if "adversary" in options:
    config.loss.update(adversarial=0.2, feature=1.0, adversarial_start=config.train.steps // 2)
  if "tiny" in options:
    config.mesh.quick_compile = True
    world |= {"train": 24, "validation": 4, "unseen_speakers": 2, "unseen_pairs": 1}
    config.codec.quantizer.update(levels=2, codes=16, width=16, semantic_width=8)
    config.codec.encoder.update(width=16, blocks=1, frame_width=8, frame_blocks=1)
    config.codec.decoder.update(width=16, blocks=1, frame_width=8, frame_blocks=1)
    config.discriminator.update(windows=(512,), widths=(4, 4))
    config.loss.spectra.update(windows=(256, 1024), bands=(32, 64))
    config.loss.adversarial_start = 2
    config.data.update(rows_per_batch=4, code_frames=8)
    config.train.update(steps=20, log_every=5, evaluate_every=10, checkpoint_every=10)
    config.train.schedule.warmup_steps = 5
    config.update(examples=4, metric_examples=2)
  config.data.worlds = (world,)
  return config
