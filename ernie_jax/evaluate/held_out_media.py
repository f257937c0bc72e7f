"""Held-out losses on pictures, videos and speech, of a model or of a member of its family.

Letters: B rows, N layers, E experts.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from ernie_jax import media as media_lib
from ernie_jax.backbone.audio_io import given_audio
from ernie_jax.backbone.config import ModelConfig
from ernie_jax.backbone.inputs import Active
from ernie_jax.model import UnifiedModel, head_kernel
from ernie_jax.objectives.audio import audio_loss
from ernie_jax.objectives.cross_entropy import token_losses
from ernie_jax.objectives.vision import vision_loss
from ernie_jax.sequence.media import MediaRow
from ernie_jax.sharding.distributed import fetch
from ernie_jax.sharding.mesh import active_mesh

_BATCH = 16  # rows of one call


@dataclasses.dataclass(frozen=True)
class MediaScore:
  """Mean losses, without errors in the history.

  Attributes:
    text: nats per token of captions, answers and what else is learnt as text.
    bits: nats per bit of pictures and videos, with the scale weights of training; 0 without them.
    codes: nats per code of speech, all levels alike; 0 without it.
  """

  text: float
  bits: float
  codes: float


def score(
  params: Any,
  bias: Float[Array, "N E"],
  rows: MediaRow,
  *,
  model: ModelConfig,
  tokenizer: Any = None,
  config: media_lib.MediaConfig | None = None,
  active: Active | None = None,
) -> MediaScore:
  """Scores a model on held-out rows.

  Args:
    params: on the device already, if it is called more than once.
    bias: the routers' bias.
    rows: from `data.pipeline.held_out_media` or `held_out_speech`.
    model: the config of `params`.
    tokenizer, config: the visual tokenizer's parameters and all of vision's config; rows without pictures and
      videos need neither.
    active: which part of the network runs, for all rows alike; None is all of it.
  """
  count = rows.row.kind.shape[0]
  size = count if active_mesh() is not None else min(_BATCH, count)
  sums = np.zeros(6)
  for start in range(0, count, size):
    # The last batch goes back over rows that were scored, and their second score is left out.
    first = min(start, count - size)
    batch = jax.tree.map(lambda x, s=first: x[s : s + size], rows)
    fresh = (np.arange(size) >= start - first).astype(np.float32)
    batch = batch.replace(
      row=batch.row.replace(
        text_weight=batch.row.text_weight * fresh[:, None],
        media_weight=batch.row.media_weight * fresh[:, None],
      )
    )
    sums += fetch(_sums(params, bias, tokenizer, batch, active, model, config))
  text, bits, codes = (float(total / max(weight, 1)) for total, weight in sums.reshape(3, 2))
  return MediaScore(text=text, bits=bits, codes=codes)


@functools.partial(jax.jit, static_argnames=("model", "config"))
def _sums(params, bias, tokenizer, batch: MediaRow, active, model, config):
  """Nats and weight of text, of bits and of codes of a batch."""
  row, sound = batch.row, batch.sound
  zero = jax.numpy.zeros(())
  encoded = media = audio = None
  if batch.drawn or batch.seen:
    encoded = media_lib.encode(params, tokenizer, batch, config=config, model=model)
    media = encoded.media
  if sound is not None:
    audio = given_audio(sound)
  output = UnifiedModel(model).apply(
    {"params": params}, row, bias, active, media=media, audio=audio
  )
  losses = token_losses(output.hidden, head_kernel(params, model), row.target)
  sums = [jax.numpy.sum(losses * row.text_weight), row.text_weight.sum(), zero, zero, zero, zero]
  if encoded is not None:
    bits = vision_loss(output, row, encoded.targets, media.start, params, model)
    sums[2:4] = bits.bits * bits.elements, bits.elements
  if audio is not None:
    codes = audio_loss(output, row, audio.codes, params, model)
    sums[4:6] = codes.codes * codes.frames, codes.frames
  return jax.numpy.stack(sums)
