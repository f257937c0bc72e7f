"""What a run measures of itself while it trains, on text, media and speech that it never learns from."""

from collections.abc import Callable

from ernie_jax.data.pipeline import held_out_media, held_out_sets, held_out_speech
from ernie_jax.elastic.family import activate_all
from ernie_jax.evaluate import held_out_media as media_scores
from ernie_jax.evaluate.held_out import score
from ernie_jax.evaluate.oracles.pitch import read_pitch
from ernie_jax.media import Vision
from ernie_jax.sequence.media import MediaShapes
from ernie_jax.speech import CorpusCoder, Speech
from ernie_jax.text.tokenizer import Tokenizer
from ernie_jax.train.experiment import Experiment
from ernie_jax.train.state import TrainState


def media_shapes(experiment: Experiment, vision: Vision | None) -> MediaShapes | None:
  """How this experiment's media become positions; None without vision."""
  return None if vision is None else vision.config.shapes(window=experiment.data.media.look_back)


def coder_of(speech: Speech | None) -> CorpusCoder | None:
  """How a corpus becomes codes and voices; None without speech."""
  return None if speech is None else CorpusCoder(speech, tracker=read_pitch)


def held_out_loss(
  experiment: Experiment,
  tokenizer: Tokenizer,
  vision: Vision | None,
  speech: Speech | None,
) -> Callable[[TrainState], dict[str, float]]:
  """Losses of the full model on a few held-out rows of text, of media and of speech, while training.

  They are measured as the family's tables measure each member, by the same compiled programs.
  """
  e, count = experiment, experiment.evaluation.rows
  texts = held_out_sets(e.data, tokenizer, max_rows=count)
  media = heard = None
  if e.data.media.sources:
    media = held_out_media(
      e.data, tokenizer, media_shapes(e, vision), rows=count, coder=coder_of(speech)
    )
  if e.data.speech.sources:
    heard = held_out_speech(e.data, tokenizer, coder_of(speech), rows=count)

  whole = {"model": e.model, "active": activate_all(e.model)}
  config = None if vision is None else vision.config

  def evaluate(state: TrainState) -> dict[str, float]:
    metrics = {}
    of_media = {**whole, "tokenizer": state.variables.tokenizer, "config": config}
    if texts:
      found = score(state.params, state.variables.bias, texts, **whole)
      metrics |= {"held_out/loss": found.loss, "held_out/bits_per_byte": found.bits_per_byte}
    if media is not None:
      seen = media_scores.score(state.params, state.variables.bias, media, **of_media)
      metrics |= {"held_out/media_text": seen.text, "held_out/bits": seen.bits}
    if heard is not None:
      found = media_scores.score(state.params, state.variables.bias, heard, **of_media)
      metrics |= {"held_out/speech_text": found.text, "held_out/codes": found.codes}
    return metrics

  return evaluate
