"""One model that reads and draws pictures and videos: text, image and video from scratch, elastic, at 32 or 64 px.

  ./launch/local.sh python -m ernie_jax.train --config=experiments/visual_tokenizer.py:video --workdir=runs/tokenizer
  ./launch/local.sh python -m ernie_jax.train --config=experiments/visual_encoder.py --workdir=runs/encoder
  ./launch/local.sh python -m ernie_jax.train --config=experiments/vision.py --workdir=runs/vision \
    --config.vision.tokenizer=runs/tokenizer --config.vision.encoder=runs/encoder

The first two commands train the tokenizer and the encoder that the third one freezes (docs/vision.md has the longer
training of the tokenizer that its tables are of). `:tiny` runs in seconds, after
the tokenizer's `:video,tiny`; `:64` has pictures of 64 px, after `:video,side=64` of the tokenizer and `:side=64` of the
encoder; `:pictures` leaves videos out, after the tokenizer without `video`; they can be joined by commas. Without
`config.vision.encoder` the model trains its own: shape then sits on a long plateau. Held-out losses fall steeply once
the rate decays.
"""

import dataclasses

from ernie_jax.data.media_rows import MediaDataConfig, TaskWeights
from ernie_jax.data.world.scene_sampling import SceneConfig
from ernie_jax.data.world.scenes import WorldSource
from ernie_jax.sequence.media import SlotsConfig
from ernie_jax.train.experiment import config_of, default_config, make_tiny, plain
from ernie_jax.vision.quantizer import QuantizerConfig
from ernie_jax.vision.understand import UnderstandConfig


def get_config(arg: str = ""):
  """arg: any of "tiny", "64", "pictures", separated by commas."""
  options = [option for option in arg.split(",") if option]
  for option in options:
    if option not in ("tiny", "64", "pictures"):
      raise ValueError(f"unknown argument {option!r}; known: tiny, 64, pictures")
  config = default_config()
  config.name = "vision"
  tiny, side = "tiny" in options, 64 if "64" in options else 32

  config.model.update(vocab_size=512, depth=4, width=128, heads=4, kv_heads=2, head_dim=32)
  config.model.update(experts=16, top_k=4, expert_width=64, shared_width=64)
  # Those of `visual_tokenizer.py`: an element of a video stands for four frames.
  bits = 16 if "pictures" in options else 20
  config.model.vision = plain(QuantizerConfig(sides=(1, 8), bits=bits))
  # Unrolled layers take a sixteenth less of a step on CPU, and hardly longer to compile (65 s against 61).
  config.model.scan = tiny
  encoder = [option for option in options if option == "tiny"] + ["side=64"] * (side == 64)
  config.vision.understand = plain(UnderstandConfig(heads=2 if tiny else 4))
  config.vision.understand.vit = config_of(__file__, "visual_encoder", ",".join(encoder)).vit
  config.elastic.update(depth_full=0.75, width_full=0.8, sparsity_full=0.8, min_depth=2)
  config.elastic.first_step = 6000  # the family joins when the loss no longer falls steeply
  config.elastic.members = ("4x16x2", "4x16x1", "4x8x4", "3x16x4", "2x8x2")

  slots = SlotsConfig(side=side, drawn_images=4, drawn_videos=2, seen_images=6, seen_videos=3)
  tasks = TaskWeights(draw=3.0, describe=3.0, answer=4.5, extend=3.0, document=0.3)
  media = MediaDataConfig(
    worlds=_worlds(side, tiny),
    slots=slots,
    tasks=tasks,
    questions=12,  # with one, which way two things lie stayed unlearned
    no_caption=0.03,  # few: guidance helped nothing here (docs/vision.md)
    scale_weights="uniform",
  )
  config.data.media = plain(media)
  config.data.update(sources=(), row_length=512, rows_per_batch=4)
  config.objective.update(understanding_weight=1.5, vision_weight=2.0)
  # Of two scales the first is as good as certain, and one wrong bit of it changes all bits of the second: with flips of
  # up to 0.1 half of the pictures right after 800 steps, with none two thirds. docs/vision.md has videos.
  config.objective.history.update(flip_max=0.0, flip_growth=0.0)
  config.evaluation.update(rows=32, prompt="", temperature=0.2, guidance=1.0)

  # Many steps of small batches: 7,500 of 4 rows learnt which of two things is where, 6,000 of 8 rows did not.
  config.train.update(steps=11_000, log_every=20, evaluate_every=1000, checkpoint_every=500)
  config.train.optimizer.update(name="muon", b2=0.98)
  # What is told stays on a plateau while the rate is high, and falls at a third of it (docs/vision.md).
  config.train.schedule.update(peak=5e-3, warmup_steps=60, decay_fraction=0.85)

  if "pictures" in options:
    config.data.media.worlds = config.data.media.worlds[::2]
    config.data.media.slots.update(drawn_images=5, drawn_videos=0, seen_images=7, seen_videos=0)
  if not tiny:
    # Twice the rows, after which questions and videos went ahead of the run without them (docs/vision.md).
    config.train.ramp.update(end=2, steps=6750)

  # Only a CPU's: its cores are devices, a part of the batch to each (docs/running.md).
  config.mesh.cpu_split = config.data.rows_per_batch

  if tiny:
    make_tiny(config)
    config.mesh.cpu_split = 0
    config.data.update(row_length=400, rows_per_batch=2)
    config.model.vocab_size = 384
    config.text.training_chars = 40_000
    config.elastic.members = ("3x4x1", "2x2x2")
  return config


def _worlds(side: int, tiny: bool) -> tuple[WorldSource, ...]:
  """Pictures, videos, then what is for training alone: pairs of things, still and moving, and colours without names."""
  # One plain background and objects in the middle of their places. What no caption tells costs training
  # time, and bits that are drawn one by one cannot agree on it: two shades ruined the first scale.
  scene = SceneConfig(
    max_objects=2, shades=("dark",), texture_probability=0.0, colour_jitter=0, position_jitter=0.0,
    speed=1 / 32,  # one element of the 8 x 8 latent in the 4 frames of each step
  )  # fmt: skip
  pictures = WorldSource(side=side, scene=scene)
  # With fewer videos to look at (one in four) whether a thing moves at all was not learnt.
  videos = WorldSource(
    side=side, scene=dataclasses.replace(scene, frames=9), train=12_000, weight=1.5
  )
  # What is learnt last is which of two things is where; one thing alone teaches nothing of it.
  two = dataclasses.replace(scene, min_objects=2)
  pairs = WorldSource(side=side, scene=two, seed=1, judged=False)
  moving = dataclasses.replace(two, frames=9)
  moving_pairs = WorldSource(
    side=side, scene=moving, train=12_000, seed=1, weight=1.5, judged=False
  )
  # Asked about and never told or drawn: a shape is a shape in colours that it never has elsewhere.
  any_colour = dataclasses.replace(scene, nameless=True)
  shapes = WorldSource(
    side=side, scene=any_colour, captions=0, documents=0.0, seed=2, weight=0.4, judged=False
  )
  sources = (pictures, videos, pairs, moving_pairs, shapes)
  if tiny:
    small = dict(train=64, validation=16, held_out=8)
    sources = tuple(dataclasses.replace(s, captions=min(s.captions, 2), **small) for s in sources)
  return sources
