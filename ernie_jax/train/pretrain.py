"""Pre-training: the unified model on rows, with or without media, the whole elastic family in one
backward pass.

Letters: B rows, L positions, N layers, E experts.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ernie_jax import media as media_lib
from ernie_jax.backbone.audio_io import given_audio
from ernie_jax.backbone.config import ModelConfig
from ernie_jax.backbone.inputs import Active, Audio
from ernie_jax.backbone.router import update_bias
from ernie_jax.elastic.family import ElasticConfig, sample
from ernie_jax.model import Output, UnifiedModel, initial_bias
from ernie_jax.objectives import balance
from ernie_jax.objectives.audio import audio_loss
from ernie_jax.objectives.history import HistoryConfig, SoundHistoryConfig, misheard
from ernie_jax.objectives.text import KINDS as TEXT_KINDS
from ernie_jax.objectives.text import text_loss
from ernie_jax.objectives.vision import vision_loss
from ernie_jax.sequence.media import MediaRow
from ernie_jax.sequence.row import Row, empty_row
from ernie_jax.speech import Speech
from ernie_jax.train.task import Loss

USAGE_DECAY = (
  0.99  # about the last hundred steps: long enough to rank experts, short enough to follow
)


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
  """Weights of the training objective.

  Attributes:
    mtp_weight: weight of multi-token prediction before `mtp_switch` (report: 0.3).
    mtp_final_weight: after it (report: 0.1, in mid-training).
    mtp_switch: the step of the change; at or past the last step it never comes.
    rescale: whether the loss of each modality is divided by its running mean, see `objectives.balance`; its
      weight then multiplies a number near 1.
    rescale_decay: of that mean, each step.
    text_weight: weight of the loss of text alone, in nats per token.
    understanding_weight: weight of the loss of text in examples with media: what is told about them.
    vision_weight: weight of the loss of pictures and videos, in nats per bit.
    history: errors put into the pictures and videos that predictions stand on.
    audio_weight: weight of the loss of sound, in nats per code.
    level_weights: relative weight of each level of codes; empty for equal ones.
    sound_history: errors put into the sound that is heard.
  """

  mtp_weight: float = 0.3
  mtp_final_weight: float = 0.1
  mtp_switch: int = 1 << 30
  rescale: bool = False
  rescale_decay: float = 0.99
  text_weight: float = 1.0
  understanding_weight: float = 1.0
  vision_weight: float = 1.0
  history: HistoryConfig = HistoryConfig()
  audio_weight: float = 1.0
  level_weights: tuple[float, ...] = ()
  sound_history: SoundHistoryConfig = SoundHistoryConfig()

  def __post_init__(self):
    kinds = ("text_weight", "understanding_weight", "vision_weight", "audio_weight")
    for name in ("mtp_weight", "mtp_final_weight", *kinds):
      if getattr(self, name) < 0:
        raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
    if not 0 <= self.rescale_decay < 1:
      raise ValueError(f"rescale_decay must be in [0, 1), got {self.rescale_decay}")
    if self.level_weights and not (min(self.level_weights) >= 0 < sum(self.level_weights)):
      raise ValueError(
        f"level_weights must not be negative, and not all 0, got {list(self.level_weights)}"
      )


@flax.struct.dataclass
class Variables:
  """State outside the parameters.

  Attributes:
    bias: float32 [N, E], the routers' selection-only balancing bias.
    usage: float32 [N, E], moving average of each expert's share of its layer's assignments by rows
      that ran the full configuration; slicing keeps the most used experts.
    tokenizer: parameters of the frozen visual tokenizer, so that a checkpoint has all that generation
      needs; None without vision.
    codec: the same of the audio codec: `params` and `vectors`.
    means: of the modalities' losses; None where these are not rescaled.
  """

  bias: Float[Array, "N E"]
  usage: Float[Array, "N E"]
  tokenizer: Any = None
  codec: Any = None
  means: balance.RunningMeans | None = None


def initial_variables(model: ModelConfig, tokenizer: Any = None, codec: Any = None) -> Variables:
  """Before training: no bias, equal use, and the given visual tokenizer and codec."""
  usage = jnp.full((model.depth, model.experts), 1 / model.experts, jnp.float32)
  return Variables(bias=initial_bias(model), usage=usage, tokenizer=tokenizer, codec=codec)


class Pretrain:
  """The `Task` of pre-training, continued training and specialists (an ElasticConfig of ones)."""

  def __init__(
    self,
    model: ModelConfig,
    elastic: ElasticConfig,
    objective: ObjectiveConfig,
    vision: media_lib.Vision | None = None,
    speech: Speech | None = None,
  ):
    if speech is not None:
      speech.check(model.audio)
    if vision is not None and vision.config.tokenizer.quantizer != model.vision:
      raise ValueError(
        f"the tokenizer makes {vision.config.tokenizer.quantizer}, not {model.vision}"
      )
    self.config, self.elastic, self.objective = model, elastic, objective
    self.vision, self.speech = vision, speech
    self.model = UnifiedModel(model)

  def init(self, key: Array) -> tuple[Any, Variables]:
    """Boxed parameters, and the state beside them."""
    row = jax.tree.map(lambda x: np.asarray(x)[None], empty_row(8))
    params = self.model.init(key, row, initial_bias(self.config))["params"]
    tokenizer = codec = None
    if self.speech is not None:
      codec = jax.tree.map(jnp.asarray, self.speech.frozen)
    if self.vision is not None:
      own = jax.random.fold_in(key, 1)
      understand = media_lib.initial_understanding(self.vision, self.config.width, own)
      params = {**params, "understand": understand}
      tokenizer = jax.tree.map(jnp.asarray, self.vision.tokenizer)
    variables = initial_variables(self.config, tokenizer, codec)
    if self.objective.rescale:
      variables = variables.replace(means=balance.no_means(self.modalities))
    return params, variables

  @property
  def frozen(self) -> tuple[str, ...]:
    """Paths of the parameters that do not train: an encoder that was given."""
    given = self.vision is not None and self.vision.encoder is not None
    return (media_lib.FROZEN_ENCODER,) if given else ()

  @property
  def modalities(self) -> tuple[str, ...]:
    """The losses that there are, by the names of their metrics."""
    vision, audio = ("bits",) * (self.vision is not None), ("codes",) * (self.speech is not None)
    media = self.config.vision is not None or self.config.audio is not None
    text = TEXT_KINDS if media else TEXT_KINDS[:1]
    return (*text, *vision, *audio)

  def weights(self, variables: Variables) -> dict[str, Any]:
    """What each modality's loss is multiplied by: its configured weight over its running mean."""
    o = self.objective
    weights = dict(zip(TEXT_KINDS, (o.text_weight, o.understanding_weight)))
    weights |= {"bits": o.vision_weight, "codes": o.audio_weight}
    scales = {} if variables.means is None else balance.scales(variables.means)
    return {name: weight * scales.get(name, 1.0) for name, weight in weights.items()}

  def loss(
    self,
    params: Any,
    variables: Variables,
    batch: Row | MediaRow,
    key: Array,
    step: Array,
    *,
    weights: Mapping[str, float | Array] | None = None,
  ) -> Loss:
    """Losses of text, bits and codes, MTP and the router's auxiliary losses of one micro-batch of rows [B, L].

    `weights`: of the modalities, in place of those of training; the router's losses stay.
    """
    if self.frozen:
      params = media_lib.hold_encoder(params)
    member_key, media_key, sound_key = jax.random.split(key, 3)
    given = self._given(params, variables, batch, media_key, sound_key)
    active = None
    if self.elastic.trains_family:
      rows = given.row.kind.shape[0]
      active = sample(member_key, rows, elastic=self.elastic, model=self.config, step=step)
    media = None if given.encoded is None else given.encoded.media
    output = self.model.apply(
      {"params": params}, given.row, variables.bias, active, media=media, audio=given.audio
    )
    scales = {} if variables.means is None else balance.scales(variables.means)
    weights = self.weights(variables) if weights is None else weights
    found = self._modalities(output, given, params, weights)
    auxiliary, metrics = self._auxiliary(output, found.further, weights["text"], step)
    if self.config.moe_layers:
      metrics["router/overflowed"] = output.stats.overflowed[self.config.dense_layers :]
    metrics |= found.metrics
    metrics |= {f"loss/{name}": loss for name, loss in found.losses.items()}
    metrics |= {f"rescaled/{name}": found.losses[name] * scale for name, scale in scales.items()}
    seen = {
      "load": output.stats.load,
      "losses": balance.observed(found.losses, found.counts),
      **self._took_part(active),
    }
    present = balance.present_metrics(metrics, seen["losses"])
    return Loss(loss=found.weighed + auxiliary, metrics=metrics, counts=seen, present=present)

  def _given(
    self,
    params: Any,
    variables: Variables,
    batch: Row | MediaRow,
    media_key: Array,
    sound_key: Array,
  ) -> "_Given":
    """What the model is given of a micro-batch, with the errors that histories have in training."""
    c, o = self.config, self.objective
    if not isinstance(batch, MediaRow):
      return _Given(batch)
    audio = encoded = None
    if batch.sound is not None:
      audio = misheard(given_audio(batch.sound), c.audio, o.sound_history, sound_key)
    if c.vision is not None:
      encoded = media_lib.encode(
        params,
        variables.tokenizer,
        batch,
        config=self.vision.config,
        model=c,
        history=o.history,
        key=media_key,
      )
    return _Given(batch.row, encoded, audio)

  def _modalities(
    self, output: Output, given: "_Given", params: Any, weights: Mapping[str, Any]
  ) -> "_Modalities":
    """The loss of each modality; data need not have all that a model can."""
    c, row = self.config, given.row
    text = text_loss(output, row, params, c, weights)
    weighed, metrics = text.weighed, {}
    none = dict.fromkeys(self.modalities, jnp.zeros(()))
    losses, counts = (
      none | {kind: of[kind] for kind in TEXT_KINDS if kind in none}
      for of in (text.means, text.tokens)
    )
    if given.encoded is not None:
      targets, start = given.encoded.targets, given.encoded.media.start
      bits = vision_loss(output, row, targets, start, params, c)
      losses["bits"], counts["bits"] = bits.bits, bits.elements
      weighed += weights["bits"] * bits.bits
      metrics |= {"bits/by_scale": bits.by_scale, "bits/accuracy": bits.accuracy}
    if given.audio is not None:
      levels = self.objective.level_weights
      codes = audio_loss(output, row, given.audio.codes, params, c, level_weights=levels)
      losses["codes"], counts["codes"] = codes.codes, codes.frames
      weighed += weights["codes"] * codes.codes
      metrics |= {"codes/by_level": codes.by_level}
    return _Modalities(weighed, text.further, losses, counts, metrics)

  def _auxiliary(
    self, output: Output, further: Float[Array, "M"], text_weight: Any, step: Array
  ) -> tuple[Array, dict[str, Array]]:
    """The weighed losses of MTP and of the router, and their metrics."""
    c, o = self.config, self.objective
    total, metrics = jnp.zeros(()), {}
    if c.mtp_depth:
      weight = jnp.where(step < o.mtp_switch, o.mtp_weight, o.mtp_final_weight)
      total += weight * text_weight * further.mean()
      metrics |= {"loss/mtp": further.mean(), "mtp_weight": weight}
    for name in ("balance_loss", "z_loss"):
      if weight := getattr(c.router, name):
        value = getattr(output.stats, name)[c.dense_layers :].mean()
        total += weight * value
        metrics[f"router/{name}"] = value
    return total, metrics

  def _took_part(self, active: Active | None) -> dict[str, Array]:
    """Which layers [N] and experts [N, E] ran, where the whole micro-batch runs the same."""
    if active is None or self.elastic.granularity != "step":
      return {}
    experts = active.experts & active.layers[:, None]
    return {"layers": active.layers.astype(jnp.int32), "experts": experts.astype(jnp.int32)}

  def ran(self, counts: Any) -> dict[str, Array] | None:
    """How many micro-batches ran each layer [N] and expert [N, E], by their paths; None if rows draw their own.

    Then some row has run nearly everything; by step, most that is left out is left out by all.
    """
    if "layers" not in counts:
      return None
    parts = {}
    for segment in self.config.segments():
      of = slice(segment.start, segment.stop) if segment.stacked else segment.start
      path = f"stack/{segment.name}"
      if segment.stacked:
        parts[path] = counts["layers"][of]
      if segment.moe:
        parts[f"{path}/moe/experts"] = counts["experts"][of]
    return parts

  def measured(self, counts: Any) -> dict[str, Array]:
    """The balance of the whole step, see `balance_metrics`."""
    return balance_metrics(counts["load"], self.config)

  def update(self, variables: Variables, counts: Any, step: Array) -> Variables:
    """Moves the bias towards balance and the measured use towards this step's."""
    load = counts["load"]
    total = load.sum(-1, keepdims=True)
    share = load / jnp.maximum(total, 1.0)
    usage = USAGE_DECAY * variables.usage + (1 - USAGE_DECAY) * share
    means = variables.means
    if means is not None:
      means = balance.updated(means, counts["losses"], decay=self.objective.rescale_decay)
    return variables.replace(
      means=means,
      bias=update_bias(variables.bias, load, rate=self.config.router.bias_rate),
      usage=jnp.where(total > 0, usage, variables.usage),
    )


@dataclasses.dataclass(frozen=True)
class _Given:
  """A micro-batch as the model takes it; None where there is no such part."""

  row: Row
  encoded: media_lib.Encoded | None = None
  audio: Audio | None = None


@dataclasses.dataclass(frozen=True)
class _Modalities:
  """Losses by modality: weighed and added up, of MTP modules, plain, over how many elements, and more metrics."""

  weighed: Float[Array, ""]
  further: Float[Array, "M"]
  losses: dict[str, Array]
  counts: dict[str, Array]
  metrics: dict[str, Array]


def balance_metrics(load: Float[Array, "N E"], model: ModelConfig) -> dict[str, Float[Array, "N"]]:
  """Balance of every MoE layer's load, of the rows that ran the full model (the router's bias heeds no others).

  `router/max_over_mean`, perfect is 1; `router/entropy`, -sum p log p / log E, perfect is 1; `router/dead`, experts
  without any token. NaN where there was no such row.
  """
  load = load[model.dense_layers :]
  if not load.size:
    return {}
  total = load.sum(-1)
  share = load / jnp.maximum(total, 1.0)[:, None]
  entropy = -jnp.sum(share * jnp.log(jnp.maximum(share, 1e-20)), axis=-1)
  metrics = {
    "router/max_over_mean": share.max(-1) * model.experts,
    "router/entropy": entropy / np.log(max(2, model.experts)),
    "router/dead": (load == 0).sum(-1).astype(jnp.float32),
  }
  return {name: jnp.where(total > 0, value, jnp.nan) for name, value in metrics.items()}


def unboxed_params(model: ModelConfig, key: Array, vision: media_lib.Vision | None = None) -> Any:
  """Fresh parameters without logical axis names, for tests and tools that need no mesh."""
  plain = ElasticConfig(depth_full=1.0, width_full=1.0, sparsity_full=1.0)
  task = Pretrain(model, plain, ObjectiveConfig(), vision)
  return nn.unbox(jax.jit(task.init)(key)[0])
