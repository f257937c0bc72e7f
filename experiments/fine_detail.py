"""Which way of looking answers questions about fine detail: an ablation of the understanding path.

  ./launch/local.sh python -m ernie_jax.train --config=experiments/fine_detail.py:mlp --workdir=runs/fine_mlp \
    --config.vision.tokenizer=runs/tokenizer --config.vision.encoder=runs/encoder

Arguments, separated by commas: `merger` (the report's attention merger; the default), `mlp`, `cnn` or `vit`
(see `UnderstandConfig.variant`), each with as many parameters as the merger; `tiny`. Pictures hold one or two
objects and a sign of one letter, and are only looked at. `python -m benchmarks.merger` compares them all. Both paths
are taught before, as in the report, and frozen: the tokenizer's convolutions to rebuild pictures, the ViT to name objects
(without `config.vision.encoder` it is taught here). `cnn` has no ViT and takes no encoder.

Pictures are asked about these two kinds of things alone: with all kinds of questions and captions the merger read small
shapes (0.91 right) and no sign (0.08, the floor) after 1,500 steps.
"""

from ernie_jax.data.media_rows import MediaDataConfig, TaskWeights
from ernie_jax.data.world.scene_sampling import SceneConfig
from ernie_jax.data.world.scenes import WorldSource
from ernie_jax.sequence.media import SlotsConfig
from ernie_jax.train.experiment import config_of, default_config, make_tiny, plain
from ernie_jax.vision.quantizer import QuantizerConfig
from ernie_jax.vision.tokenizer import TokenizerConfig
from ernie_jax.vision.understand import UnderstandConfig, comparable
from ernie_jax.vision.vit import VitConfig

VARIANTS = ("merger", "mlp", "cnn", "vit")


def get_config(arg: str = ""):
  """arg: one of `VARIANTS`, "tiny", or both, separated by a comma."""
  options = [option for option in arg.split(",") if option]
  if unknown := set(options) - {*VARIANTS, "tiny"}:
    known = ", ".join((*VARIANTS, "tiny"))
    raise ValueError(f"unknown argument {sorted(unknown)[0]!r}; known: {known}")
  tiny = "tiny" in options
  variant = next((option for option in options if option in VARIANTS), "merger")
  config = default_config()
  config.name = f"fine_detail_{variant}"

  config.model.update(vocab_size=512, depth=4, width=128, heads=4, kv_heads=2, head_dim=32)
  config.model.update(experts=16, top_k=4, expert_width=64, shared_width=64)
  config.elastic.update(depth_full=1.0, width_full=1.0, sparsity_full=1.0)
  scene = SceneConfig(
    max_objects=2, shades=("dark",), texture_probability=0.0, colour_jitter=0, position_jitter=0.0,
    sign_probability=1.0, sign_alphabet="ACEHKLTX", sign_lengths=(1,),
  )  # fmt: skip
  world = dict(scene=scene, documents=0.0)
  if tiny:
    world |= dict(train=64, validation=16, held_out=8, captions=2)
  slots = SlotsConfig(drawn_images=0, drawn_videos=0, seen_images=12, seen_videos=0)
  tasks = TaskWeights(draw=0.0, describe=0.0, answer=1.0, extend=0.0, document=0.0)
  media = MediaDataConfig(
    worlds=(WorldSource(**world),), slots=slots, tasks=tasks, questions=2, kinds=("small", "sign")
  )
  config.data.media = plain(media)
  config.data.update(sources=(), row_length=384, rows_per_batch=4)
  config.evaluation.update(rows=32, prompt="", prompts=0)

  config.train.update(steps=800, log_every=20, evaluate_every=400, checkpoint_every=400)
  config.train.optimizer.update(name="muon", b2=0.98)
  config.train.schedule.update(peak=6e-3, warmup_steps=40, decay_fraction=0.4)

  if tiny:
    make_tiny(config)
    config.data.update(row_length=400, rows_per_batch=2)
    config.model.vocab_size = 384
    config.text.training_chars = 40_000
  code = QuantizerConfig(sides=(1, 8), bits=16)
  config.model.vision = plain(code)
  vit = VitConfig(**config_of(__file__, "visual_encoder", "tiny" if tiny else "").vit)
  understand = UnderstandConfig(vit=vit, heads=vit.heads)
  if variant != "merger":
    channels = TokenizerConfig(quantizer=code).widths[-1]
    understand = comparable(understand, variant, channels=channels, width=config.model.width)
  config.vision.understand = plain(understand)
  return config
