"""The encoder with which a model looks at pictures and videos, taught to name what lies under each patch.

  ./launch/local.sh python -m ernie_jax.train --config=experiments/visual_encoder.py --workdir=runs/encoder

Arguments, separated by commas: `side=64` (patches of 8), `tiny` (all of it in seconds). The data are frames of videos, so
that things lie anywhere, and as many with colours that no word names, so that a shape is known in any colour.
"""

import dataclasses

from ernie_jax.data.world.scene_sampling import SceneConfig
from ernie_jax.data.world.scenes import WorldSource
from ernie_jax.train.experiment import plain
from ernie_jax.train.visual_encoder_run import default_config


def get_config(arg: str = ""):
  """arg: any of "tiny", "side=64", separated by commas."""
  options = [option for option in arg.split(",") if option]
  if unknown := set(options) - {"tiny", "side=64"}:
    raise ValueError(f"unknown argument {sorted(unknown)[0]!r}; known: tiny, side=64")
  config, tiny = default_config(), "tiny" in options
  side = 64 if "side=64" in options else 32
  config.vit.update(patch=side // 8, grid=(8, 8), depth=2, width=64, heads=4, mlp_width=128)
  config.vit.positions = "sincos"
  scene = SceneConfig(
    frames=9, max_objects=2, shades=("dark",), texture_probability=0.0, colour_jitter=0,
    position_jitter=0.0,
  )  # fmt: skip
  named = WorldSource(side=side, scene=scene, train=64 if tiny else 8_000)
  nameless = dataclasses.replace(
    named, scene=dataclasses.replace(scene, nameless=True), captions=0, documents=0.0, seed=2
  )
  if tiny:
    small = dict(validation=16, held_out=8)
    named, nameless = (dataclasses.replace(world, **small) for world in (named, nameless))
  config.data.worlds = plain((named, nameless))
  config.train.update(steps=2000, log_every=20, evaluate_every=500, checkpoint_every=500)
  config.train.optimizer.update(name="muon", b2=0.98, weight_decay=0.01)
  config.train.schedule.update(peak=4e-3, warmup_steps=60, decay_fraction=0.5)
  config.mesh.cpu_split = 4
  if tiny:
    config.mesh.update(cpu_split=0, quick_compile=True)
    config.vit.update(depth=1, width=16, heads=2, mlp_width=32)
    config.data.rows_per_batch = 8
    config.train.update(steps=20, log_every=5, evaluate_every=10, checkpoint_every=10)
    config.train.schedule.warmup_steps = 5
    config.examples = 16
  return config
