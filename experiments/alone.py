"""One modality of the reference run alone, for as many rows of it as `small.py` has: what sharing costs.

  ./launch/local.sh python -m ernie_jax.train --config=experiments/alone.py:speech --workdir=runs/alone_speech

Arguments, separated by commas: `text` (programs; the default), `media` (pictures and videos) or `speech`; `tiny`. Both
halves of the reference run, `pretrain` and `model`, with its batches, objectives, schedules and family; steps are
fewer, as only one modality's rows are left. Questions that are heard belong to no modality alone, and are left out. All
that is trained before is that of a finished run in runs/small: tokenizers, and for `media` the frozen encoder and `look`,
from which the joint model goes on too.
"""

import ml_collections

from ernie_jax.data.media_rows import MediaDataConfig
from ernie_jax.data.speech_rows import SpeechDataConfig
from ernie_jax.train.experiment import config_of, plain

MODALITIES = ("text", "media", "speech")
RUN = "runs/small"


def get_config(arg: str = ""):
  """arg: one of `MODALITIES`, "tiny", or both, separated by a comma."""
  options = [option for option in arg.split(",") if option]
  if unknown := set(options) - {*MODALITIES, "tiny"}:
    known = ", ".join((*MODALITIES, "tiny"))
    raise ValueError(f"unknown argument {sorted(unknown)[0]!r}; known: {known}")
  modality = next((option for option in options if option in MODALITIES), "text")
  halves = config_of(__file__, "small", "tiny" if "tiny" in options else "").stages
  first, second = halves.pretrain, halves.model
  for half in (first, second):
    half.name = f"alone_{modality}_{half.name}"
    _shorten(half, _share(half.data, modality))
    _keep(half, modality)
    half.vision.tokenizer = half.vision.encoder = half.audio.codec = ""  # those of the start
  first.start, second.start = "", "@pretrain"
  if modality == "media":
    first.start, second.vision.tokenizer = f"{RUN}/look", f"{RUN}/frames"
    first.vision.encoder = second.vision.encoder = f"{RUN}/encoder"
  else:
    first.text.tokenizer = f"{RUN}/text/tokenizer.model"
  if modality == "speech":
    first.audio.codec = f"{RUN}/codec"
  stages = {"pretrain": first, "model": second}
  return ml_collections.ConfigDict(
    {"name": f"alone_{modality}", "stage": "pipeline", "stages": stages}
  )


def _shorten(config: ml_collections.ConfigDict, share: float) -> None:
  """As many steps, before and after what happens in the middle, as `share` of the rows is."""
  train = config.train
  train.steps = max(2, round(share * train.steps))
  train.ramp.steps = round(share * train.ramp.steps)
  train.schedule.warmup_steps = round(share * train.schedule.warmup_steps)
  config.elastic.first_step = round(share * config.elastic.first_step)


def _keep(config: ml_collections.ConfigDict, modality: str) -> None:
  """Leaves out the data and the heads of other modalities; `look`, where `media` starts, has all heads."""
  data, model = config.data, config.model
  if modality != "text":
    data.sources = ()
  if modality != "speech":
    data.speech = plain(SpeechDataConfig())
  data.media = {**data.media, "spoken": ()} if modality == "media" else plain(MediaDataConfig())
  if modality != "media":
    model.vision = None
  if modality == "text":
    model.audio = None


def _share(data, modality: str) -> float:
  """The part of the joint run's rows that this modality has, without examples in which a question is heard."""
  media = data.media.weight
  weights = {
    "text": sum(source["weight"] for source in data.sources),
    "media": media,
    "speech": data.speech.weight,
  }
  share = weights[modality] / sum(weights.values())
  if modality == "media":
    seen, heard = (
      sum(s["weight"] for s in worlds) for worlds in (data.media.worlds, data.media.spoken)
    )
    share *= seen / (seen + heard)
  return share
