"""Which experts each group of tokens chooses: `python -m ernie_jax.analysis.routing --workdir=RUN`.

Held-out rows of the model's own data go through the full member, and every router's choices are counted
by group. The router never sees a group (`backbone/router.py`): what differs between them was learnt.

Letters: B rows, L positions, N MoE layers, E experts, M groups, with all other tokens as one more.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from ernie_jax import cli
from ernie_jax import media as media_lib
from ernie_jax.analysis.routing_report import GroupRouting, RoutingReport
from ernie_jax.backbone.audio_io import given_audio
from ernie_jax.backbone.config import ModelConfig
from ernie_jax.backbone.router import Router, Routes
from ernie_jax.data.pipeline import held_out_media, held_out_sets, held_out_speech
from ernie_jax.errors import UserError
from ernie_jax.evaluate.family_table import data_config
from ernie_jax.evaluate.oracles.pitch import read_pitch
from ernie_jax.model import UnifiedModel
from ernie_jax.sequence.media import MediaRow
from ernie_jax.sequence.row import Kind
from ernie_jax.speech import CorpusCoder
from ernie_jax.train.model_io import SavedModel

ROWS = 64
GROUPS = (
  "text",
  "image understanding",
  "video understanding",
  "image generation",
  "video generation",
  "audio",
)
_OTHER, _UNCOUNTED = len(GROUPS), len(GROUPS) + 1
_BATCH = 16  # rows of one call


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOutRows:
  """Rows of one source.

  Attributes:
    rows: fields with a leading [B].
    weight: of the source in the mixture that the model was trained on.
  """

  rows: MediaRow
  weight: float


@dataclasses.dataclass(frozen=True, eq=False)
class RouteCounts:
  """Choices of some rows' tokens; the last entry of M is the tokens of no group, as those of a voice.

  Attributes:
    tokens: int64 [M].
    choices: int64 [M, N, E], how many of them chose each expert.
  """

  tokens: Int[np.ndarray, "M"]
  choices: Int[np.ndarray, "M N E"]


def measure_routing(saved: SavedModel, *, rows: int = ROWS) -> RoutingReport:
  """Expert use of the full member on held-out rows of the model's own data.

  Sources count as they weigh in training, whatever the number of their rows here.

  Args:
    saved: the model, with its tokenizers and the config of its data.
    rows: rows of each source of text, of the media, and of the speech, at most.

  Raises:
    UserError: the model has no experts, or no tokenizer, codec or data of ours.
  """
  if not saved.model.moe_layers:
    raise UserError("--workdir: this model has no layers with experts, so there is no routing")
  held_out = held_out_rows(saved, rows=rows)
  counts = [count_choices(saved, one.rows) for one in held_out]
  sizes = [one.rows.row.kind.shape[0] for one in held_out]
  shares = [one.weight / size for one, size in zip(held_out, sizes)]
  together = lambda name: sum(s * getattr(c, name) for s, c in zip(shares, counts))
  tokens, choices = together("tokens"), together("choices")
  seen = sum(one.tokens for one in counts)
  groups = [
    GroupRouting(name, int(seen[g]), choices[g] / tokens[g])
    for g, name in enumerate(GROUPS)
    if seen[g]
  ]
  load = choices.sum(0)
  dense = saved.model.dense_layers
  return RoutingReport(
    groups=tuple(groups),
    load=load / load.sum(-1, keepdims=True),
    layers=tuple(range(dense + 1, saved.model.depth + 1)),
    top_k=saved.model.top_k,
    rows=sum(sizes),
    step=saved.step,
  )


def held_out_rows(saved: SavedModel, *, rows: int) -> tuple[HeldOutRows, ...]:
  """At most so many rows of the held-out split of each source of text, of the media and of the speech.

  Raises:
    UserError: the model lacks the tokenizer, the codec or the data.
  """
  data = data_config(saved)
  texts = held_out_sets(data, saved.tokenizer, max_rows=rows)
  found = [
    HeldOutRows(MediaRow(row=text.rows, drawn=(), seen=()), source.weight)
    for text, source in zip(texts, data.sources)
  ]
  coder = None
  if data.speech.sources or data.media.spoken:
    if saved.speech is None:
      raise UserError("--workdir: this model was trained on speech, but has no audio codec here")
    coder = CorpusCoder(saved.speech, tracker=read_pitch)
  if data.media.sources:
    if saved.vision is None:
      raise UserError(
        "--workdir: this model was trained on media, but has no visual tokenizer here"
      )
    shapes = saved.vision.config.shapes(window=data.media.look_back)
    media = held_out_media(data, saved.tokenizer, shapes, rows=rows, coder=coder)
    found.append(HeldOutRows(media, data.media.weight))
  if data.speech.sources:
    speech = held_out_speech(data, saved.tokenizer, coder, rows=rows)
    found.append(HeldOutRows(speech, data.speech.weight))
  return tuple(found)


def token_groups(rows: MediaRow) -> Int[np.ndarray, "B L"]:
  """Which of `GROUPS` each position belongs to; one past the last for none of them, two for padding.

  Text is all that the embedding table writes, the tokens around pictures and clips included. Pictures
  and videos are told apart by the frames of their slots.
  """
  row = rows.row
  frames = [kind.shape[-4] for kind in (*rows.drawn, *rows.seen) for _ in range(kind.shape[-5])]
  # Text has the slot -1, and slots of sound, numbered apart, may be any: both find the last entry.
  moving = np.array([*frames, 1])[np.clip(row.media_slot, -1, len(frames))] > 1
  context, target = row.kind == Kind.VISION_CONTEXT, row.kind == Kind.VISION_TARGET
  belongs = [
    row.kind == Kind.TEXT,
    context & ~moving,
    context & moving,
    target & ~moving,
    target & moving,
    row.kind == Kind.AUDIO,
    row.kind != Kind.PAD,
  ]
  return np.select(belongs, range(len(belongs)), default=_UNCOUNTED).astype(np.int32)


def count_choices(saved: SavedModel, rows: MediaRow) -> RouteCounts:
  """Counts what the routers of the full member choose for every token of `rows`."""
  params, bias = jax.device_put((saved.params, saved.bias))
  tokenizer = None if saved.vision is None else jax.device_put(saved.vision.tokenizer)
  config = None if saved.vision is None else saved.vision.config
  groups = token_groups(rows)
  count = groups.shape[0]
  size = min(_BATCH, count)
  total = 0
  for start in range(0, count, size):
    # The last batch goes back over rows that were counted, and their tokens are left out.
    first = min(start, count - size)
    batch = jax.tree.map(lambda x, s=first: x[s : s + size], rows)
    known = groups[first : first + size].copy()
    known[: start - first] = _UNCOUNTED
    made = _choices(params, bias, tokenizer, batch, known, saved.model, config)
    total += np.asarray(made, np.int64)
  tokens = np.bincount(groups.ravel(), minlength=_UNCOUNTED + 1)[:_UNCOUNTED]
  return RouteCounts(tokens=tokens, choices=total)


@functools.partial(jax.jit, static_argnames=("model", "config"))
def _choices(params, bias, tokenizer, batch: MediaRow, groups, model: ModelConfig, config):
  """`RouteCounts.choices` of a batch, int32 [M, N, E]."""
  media = audio = None
  if batch.drawn or batch.seen:
    media = media_lib.encode(params, tokenizer, batch, config=config, model=model).media
  if batch.sound is not None:
    audio = given_audio(batch.sound)
  _, state = UnifiedModel(model).apply(
    {"params": params},
    batch.row,
    bias,
    media=media,
    audio=audio,
    capture_intermediates=is_router,
    mutable=["intermediates"],
  )
  routes = captured_routes(state["intermediates"], model)

  def of_layer(experts, live):
    chosen = jnp.zeros((_UNCOUNTED + 1, model.experts), jnp.int32)
    return chosen.at[groups[..., None], experts].add(live)[:_UNCOUNTED]

  return jax.vmap(of_layer, out_axes=1)(routes.experts, routes.live.astype(jnp.int32))


def is_router(module: nn.Module, method: str) -> bool:
  """Which calls a pass shall keep: for `UnifiedModel.apply(..., capture_intermediates=is_router)`."""
  return isinstance(module, Router) and method == "__call__"


def captured_routes(intermediates: Mapping[str, Any], model: ModelConfig) -> Routes:
  """The `Routes` of all MoE layers, with a leading [N], that a pass with `is_router` kept."""
  found = []
  for segment in model.segments():
    if segment.moe:
      ((routes, _),) = intermediates["stack"][segment.name]["moe"]["router"]["__call__"]
      found.append(routes if segment.stacked else jax.tree.map(lambda x: x[None], routes))
  return jax.tree.map(lambda *parts: jnp.concatenate(parts), *found)


if __name__ == "__main__":
  from ernie_jax.analysis import routing_command  # flags only where this is the program

  cli.run(routing_command.main)
