"""The visual tokenizer of the world's pictures and videos, 32 or 64 px, on a laptop.

  ./launch/local.sh python -m ernie_jax.train --config=experiments/visual_tokenizer.py --workdir=runs/tokenizer

Arguments, separated by commas: `video` (9 frames, 4x in time), `bits=8` (12, 16, 20: a family for progressive
switching; by default 16 for pictures, 20 for videos), `side=64` (64 px in the same 8 x 8 latent, stride 8), `textured`
(backgrounds with texture, jittered colours and places), `tiny` (all of it in seconds).

The encoder's kernels see one patch (`encoder_side`), so that no bit depends on what lies elsewhere: the joint model
then had 0.17 nats a held-out bit after 1,250 steps, where kernels of side 3 (and colours jittered by two levels)
left it at 0.36. So it is in time (`encoder_time`): bits tell of their four frames, and what moves by a patch in them has
the same bits one place further on.
"""

from ernie_jax.train.visual_tokenizer_run import default_config


def get_config(arg: str = ""):
  """arg: any of "tiny", "video", "bits=N", "side=64", "textured", separated by commas."""
  config = default_config()
  config.tokenizer.update(encoder_side=1, encoder_time=1)
  # Under teacher forcing the true coarse scales tell a model of the finest one what belongs together, which
  # it then takes from them and not from the words: with scales between these two, scenes of two objects failed.
  config.tokenizer.quantizer.update(sides=(1, 8), bits=16)
  options = [option for option in arg.split(",") if option]
  for option in options:
    name, _, value = option.partition("=")
    if name == "bits" and value.isdigit():
      config.tokenizer.quantizer.bits = int(value)
    elif option not in ("tiny", "video", "side=64", "textured"):
      known = "tiny, video, bits=N, side=64, textured"
      raise ValueError(f"unknown argument {option!r}; known: {known}")

  world = {"scene": {"max_objects": 2}, "train": 12_000, "documents": 0.0}
  if "textured" not in options:  # as `vision.py` has them
    world["scene"] |= {"texture_probability": 0.0, "colour_jitter": 0, "position_jitter": 0.0}
    world["scene"]["speed"] = 1 / 32  # one element of the 8 x 8 latent in the 4 frames of each step
  if "side=64" in options:
    world["side"] = 64
    config.tokenizer.update(patch=8, widths=(96,))
  config.train.steps = 4000
  config.train.schedule.peak = 2e-3
  config.train.schedule.warmup_steps = 40
  config.train.schedule.decay_fraction = 0.3
  config.train.optimizer.weight_decay = 0.0
  config.train.log_every = 50
  config.train.evaluate_every = 1000
  config.train.checkpoint_every = 2000
  if "video" in options:
    config.tokenizer.temporal = 4
    # Four frames take more than one: with 16, small crosses became circles.
    if not any(option.startswith("bits=") for option in options):
      config.tokenizer.quantizer.bits = 20
    config.data.frames = 9
    config.data.rows_per_batch = 8
    config.train.steps = 8000
    world["scene"]["frames"] = 9
    world["train"] = 4_000
  config.mesh.cpu_split = 4  # pictures more than twice, videos 1.5 times as fast on 2 cores
  if "tiny" in options:
    config.mesh.update(cpu_split=0, quick_compile=True)
    world |= {"train": 64, "validation": 16, "held_out": 1, "captions": 1}
    config.tokenizer.update(widths=(8,), blocks=1)
    config.data.rows_per_batch = 4
    config.train.update(steps=20, log_every=5, evaluate_every=10, checkpoint_every=10)
    config.train.schedule.warmup_steps = 5
    config.update(examples=4, metric_examples=4)
  config.data.worlds = (world,)
  return config
