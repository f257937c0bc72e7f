"""The quickstart: one model of text, pictures, videos and speech, read and produced, from scratch, on a laptop.

  ./launch/local.sh python -m ernie_jax.train --config=experiments/quickstart.py --workdir=runs/quickstart

Stages: `text` (its tokenizer), `pictures` and `frames` (the visual tokenizer, of pictures, then inflated to videos),
`encoder` (that looks at them), `codec` (of speech), `look` (the model, on nothing but what it sees) and `model` (all of
it, as an elastic family). The same command goes on where it stopped; `--only=NAME` runs some stages, `--force=NAME` some
of them again, `--config.stages.NAME.KEY=VALUE` overrides any key. `:tiny` goes through all of it in minutes. Scenes that
are judged hold one thing, which is what fits into the time; `:two` has one or two of them, as `vision.py` and `small.py`
have.
"""

import copy

import ml_collections

from ernie_jax.backbone.config import AudioConfig
from ernie_jax.data.speech_rows import SpeechDataConfig
from ernie_jax.data.text_files import TextSource
from ernie_jax.data.world.speech_set import SpeechSource
from ernie_jax.data.world.spoken import SpokenSource
from ernie_jax.train import text_tokenizer_run
from ernie_jax.train.experiment import config_of, plain


def get_config(arg: str = ""):
  """arg: any of "tiny", "two", separated by a comma."""
  options = [option for option in arg.split(",") if option]
  if unknown := set(options) - {"tiny", "two"}:
    raise ValueError(f"unknown argument {sorted(unknown)[0]!r}; known: tiny, two")
  arg = "tiny" if "tiny" in options else ""
  model = _model(arg, things=2 if "two" in options else 1)
  text = text_tokenizer_run.default_config()
  text.data = copy.deepcopy(model.data)  # its text; rows are the model's own
  text.mesh.quick_compile = arg == "tiny"
  text.vocab_size, text.training_chars = model.model.vocab_size, model.text.training_chars
  frames = config_of(__file__, "visual_tokenizer", f"video,{arg}")
  frames.start = "@pictures"
  stages = {
    "text": text,
    "pictures": config_of(__file__, "visual_tokenizer", arg),
    "frames": frames,
    "encoder": config_of(__file__, "visual_encoder", arg),
    "codec": config_of(__file__, "audio_codec", arg),
    "look": _look(model, tiny=arg == "tiny"),
    "model": model,
  }
  model.start = "@look"
  # The busiest expert of the first layer had 1.6 times the mean at 1e-3: the bias follows batches of few rows.
  model.model.router.bias_rate = 3e-4
  model.text.tokenizer = model.vision.tokenizer = model.audio.codec = ""  # those of the start
  return ml_collections.ConfigDict({"name": "quickstart", "stage": "pipeline", "stages": stages})


def _look(model: ml_collections.ConfigDict, *, tiny: bool) -> ml_collections.ConfigDict:
  """The first steps of `model`: it tells what pictures and videos show and answers about them, and nothing else.

  Here it learns to see what the same model did not in 5,000 steps of everything, whatever the weights (docs/vision.md):
  rows of this alone hold twice as many pictures, and no program takes the gradient. What is asked about one thing can
  be answered without the question's words; so a third of it are pairs of things. After 2,000 steps one of two runs
  did not know yet what moves.
  """
  look = copy.deepcopy(model)
  look.name = "quickstart_look"
  look.data.sources, look.data.speech.worlds, look.data.media.spoken = (), (), ()
  look.data.media.tasks.update(draw=0.0, describe=5.0, answer=5.0, extend=0.0, document=0.0)
  pictures, videos, pairs = look.data.media.worlds
  look.data.media.worlds = (
    {**pictures, "weight": 1.0}, {**videos, "weight": 1.5}, {**pairs, "weight": 1.0}
  )  # fmt: skip
  look.data.media.slots.update(drawn_images=0, drawn_videos=0, seen_images=12, seen_videos=5)
  look.elastic.update(depth_full=1.0, width_full=1.0, sparsity_full=1.0, members=())  # comes later
  look.evaluation.update(prompts=0, members=())
  look.train.steps = 20 if tiny else 2700
  look.train.schedule.warmup_steps = 5 if tiny else 60
  look.objective.understanding_weight = 0.3  # alone it decides what is clipped, and nothing else
  return look


def _model(arg: str, things: int) -> ml_collections.ConfigDict:
  """The model of `vision.py`, with the heads of `speech.py`, questions that are heard, and text of programs.

  Scenes that are judged hold up to `things` things.
  """
  config, speech = config_of(__file__, "vision", arg), config_of(__file__, "speech", arg)
  config.name = "quickstart"
  tiny = arg == "tiny"
  config.model.update(depth=speech.model.depth, top_layers=speech.model.top_layers)
  config.model.audio = plain(AudioConfig(**speech.model.audio))
  config.elastic.update(min_depth=speech.elastic.min_depth, members=speech.elastic.members)
  worlds = tuple(SpeechSource(**world) for world in speech.data.speech.worlds)
  config.data.speech = plain(SpeechDataConfig(worlds=worlds, weight=0.5))
  # Drawing is learnt last. Of the worlds for training alone, a few scenes of two things stay.
  pictures, videos, pairs, *_ = config.data.media.worlds
  of_things = lambda world, weight: {
    **world, "weight": weight, "scene": {**world["scene"], "max_objects": things}
  }  # fmt: skip
  config.data.media.worlds = (
    of_things(pictures, 2.0), of_things(videos, 1.6), {**pairs, "weight": 0.5}
  )  # fmt: skip
  config.data.media.tasks.update(draw=7.0, describe=1.5, answer=3.5, extend=0.7)
  # One in fifteen examples of media is about a picture of the first world, and heard: mostly a question.
  spoken = plain(SpokenSource(recorded=8 if tiny else 4_000, documents=0.4, weight=0.3))
  config.data.media.spoken = ({**spoken, "scenes": config.data.media.worlds[0]},)
  # Sources take turns: where this weight and the sum of all have a simple ratio, programs may never meet a logged step.
  # The words of programs are whole: dropped merges help to spell what is spoken.
  config.data.sources = (plain(TextSource(weight=0.26, bpe_dropout=0.0)),)
  config.data.bpe_dropout = speech.data.bpe_dropout
  if not tiny:
    config.model.vocab_size = 1024
    config.train.steps, config.elastic.first_step = 4800, 2000
    config.train.ramp.update(end=1, steps=0)
    # Heads and words that `look` never used undo what it learnt; in runs with this and told heavier, less.
    config.train.schedule.warmup_steps = 500
    config.evaluation.prompts, config.evaluation.members = 256, ("6x16x2", "4x8x2")
  # Each loss over its running mean: a bit ends near 0.02 nats and a code at 2, and the former would be drowned. The
  # weights bring the gradients in the shared layers to norms nearer to each other (docs/sharing.md); at 0.6 text had 1 %.
  config.objective.update(rescale=True, text_weight=3.0, understanding_weight=0.75)
  config.objective.update(vision_weight=3.5, audio_weight=12.0)
  config.text.tokenizer = "@text/tokenizer.model"
  config.vision.tokenizer = "@frames"
  config.vision.encoder = "@encoder"
  config.audio.codec = "@codec"
  return config
