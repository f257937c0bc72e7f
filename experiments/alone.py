"""One modality of the quickstart alone, for as many rows of it as the quickstart's `model` has: what sharing costs.

  ./launch/local.sh python -m ernie_jax.train --config=experiments/alone.py:speech --workdir=runs/alone_speech

Arguments, separated by commas: `text` (programs; the default), `media` (pictures and videos) or `speech`; `tiny`. The
tokenizers are those of the quickstart in runs/quickstart, and `media` goes on from its `look`, as `model` does, with the same
frozen encoder; for another place override `config.text.tokenizer`, `config.audio.codec`, or `config.start` and
`config.vision.encoder`. Batches, objective, schedule and family are the quickstart's; steps are fewer, as only one modality's
rows are left. Questions that are heard belong to no modality alone, and are left out.
"""

from ernie_jax.data.media_rows import MediaDataConfig
from ernie_jax.data.speech_rows import SpeechDataConfig
from ernie_jax.train.experiment import config_of, plain

MODALITIES = ("text", "media", "speech")
RUN = "runs/quickstart"


def get_config(arg: str = ""):
  """arg: one of `MODALITIES`, "tiny", or both, separated by a comma."""
  options = [option for option in arg.split(",") if option]
  if unknown := set(options) - {*MODALITIES, "tiny"}:
    known = ", ".join((*MODALITIES, "tiny"))
    raise ValueError(f"unknown argument {sorted(unknown)[0]!r}; known: {known}")
  modality = next((option for option in options if option in MODALITIES), "text")
  config = config_of(__file__, "quickstart", "tiny" if "tiny" in options else "").stages.model
  config.name = f"alone_{modality}"
  share = _share(config.data, modality)
  config.train.steps = max(2, round(share * config.train.steps))
  config.elastic.first_step = config.train.steps // 2

  data, model = config.data, config.model
  if modality != "text":
    data.sources = ()
  if modality != "speech":
    data.speech = plain(SpeechDataConfig())
  data.media = {**data.media, "spoken": ()} if modality == "media" else plain(MediaDataConfig())
  config.vision.tokenizer = config.vision.encoder = config.audio.codec = ""
  if modality == "media":
    config.start, config.vision.encoder = f"{RUN}/look", f"{RUN}/encoder"
    return config
  config.start, config.text.tokenizer = "", f"{RUN}/text/tokenizer.model"
  model.vision = None
  if modality == "text":
    model.audio = None
  else:
    config.audio.codec = f"{RUN}/codec"
  return config


def _share(data, modality: str) -> float:
  """The part of the quickstart's rows that this modality has, without examples in which a question is heard."""
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
