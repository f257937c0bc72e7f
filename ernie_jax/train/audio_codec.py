"""Training the codec: a task of the common loop, with codebooks that follow the data beside it.

Letters: B rows, S samples, F frames of 8 ms, T codec frames, R levels, V codes, D width of the latent.

Codebooks are variables: their moving averages are updated after each step from the counts of all its
micro-batches. The adversary, where there is one, trains in the same backward pass, each side seeing the
other through a stop-gradient, as in `visual_tokenizer`.
"""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ernie_jax.audio import codec as codec_lib
from ernie_jax.audio import discriminator as game
from ernie_jax.audio import losses, quantizer
from ernie_jax.audio.codec import Codec, CodecConfig, Reconstruction
from ernie_jax.audio.discriminator import DiscriminatorConfig, Discriminators
from ernie_jax.audio.layers import CausalConv
from ernie_jax.audio.quantizer import Codebooks, Counts
from ernie_jax.audio.teacher import Teacher
from ernie_jax.data.speech_batches import SpeechBatch
from ernie_jax.train.task import Loss


@dataclasses.dataclass(frozen=True)
class CodecLossConfig:
  """Weights of the objective; 0 leaves a term out.

  Attributes:
    spectra: the resolutions of `mel` and `stft`.
    mel, stft: see `losses.SpectralTerms`.
    pitch: semitones of the decoded pitch from the known one.
    semantic: of the first level's alignment to the teacher.
    commitment: mean over levels of the distance of residuals to their codes.
    level_drop: probability with which a row uses only its first levels.
    adversarial, feature: of the discriminators' opinion, and of the match of their maps.
    adversarial_start: step from which on they count.
  """

  spectra: losses.SpectraConfig = losses.SpectraConfig()
  mel: float = 1.0
  stft: float = 0.3
  pitch: float = 0.5
  semantic: float = 0.5
  commitment: float = 0.25
  level_drop: float = 0.0
  adversarial: float = 0.0
  feature: float = 0.0
  adversarial_start: int = 0

  def __post_init__(self):
    for field in dataclasses.fields(self):
      if field.name != "spectra" and getattr(self, field.name) < 0:
        raise ValueError(f"{field.name} must not be negative, got {getattr(self, field.name)}")
    if self.level_drop > 1:
      raise ValueError(f"level_drop must be at most 1, got {self.level_drop}")

  @property
  def plays(self) -> bool:
    """Whether there are discriminators."""
    return self.adversarial > 0 or self.feature > 0


@flax.struct.dataclass
class Start:
  """What a codec starts from.

  Attributes:
    params: of `Codec`, unboxed.
    codebooks: their state.
  """

  params: Any
  codebooks: Codebooks


class CodecTask:
  """The `Task` of training a codec."""

  def __init__(
    self,
    codec: CodecConfig,
    loss: CodecLossConfig,
    *,
    teacher: Teacher | None = None,
    discriminator: DiscriminatorConfig | None = None,
    start: Start | None = None,
  ):
    """A teacher where the loss needs one; without a start, random parameters and codes.

    Raises:
      ValueError: no teacher where the loss needs one.
    """
    if loss.semantic and teacher is None:
      raise ValueError("the semantic loss needs a teacher")
    self.config, self.weights, self.teacher, self.start = codec, loss, teacher, start
    self.model = Codec(codec)
    self.discriminators = Discriminators(discriminator or DiscriminatorConfig())
    self.head = CausalConv(teacher.width) if loss.semantic else None

  def init(self, key: Array) -> tuple[Any, Codebooks]:
    """Boxed parameters of all that trains, and the codebooks."""
    params = {"codec": codec_lib.boxed_params(self.config, key)}
    books = quantizer.fresh_codebooks(self.config.quantizer, jax.random.fold_in(key, 1))
    if self.start is not None:
      is_box = lambda x: hasattr(x, "replace_boxed")
      put = lambda box, value: box.replace_boxed(jnp.asarray(value))
      params["codec"] = jax.tree.map(put, params["codec"], self.start.params, is_leaf=is_box)
      books = jax.tree.map(jnp.asarray, self.start.codebooks)
    if self.head is not None:
      first = jnp.zeros((1, 1, self.config.quantizer.width))
      params["semantic"] = self.head.init(jax.random.fold_in(key, 2), first)["params"]
    if self.weights.plays:
      sound = jnp.zeros((1, codec_lib.STRIDE))
      key = jax.random.fold_in(key, 3)
      params["discriminator"] = self.discriminators.init(key, sound)["params"]
    return params, books

  def loss(
    self, params: Any, variables: Codebooks, batch: SpeechBatch, key: Array, step: Array
  ) -> Loss:
    """The whole objective on one micro-batch."""
    w, cfg = self.weights, self.config.quantizer
    wave = batch.waveform.astype(jnp.float32) / 32768
    drop_key, noise_key = jax.random.split(key)
    keep = None
    if w.level_drop:
      keep = quantizer.draw_levels(drop_key, len(wave), cfg, drop=w.level_drop)
    out = self.model.apply(
      {"params": params["codec"]}, wave, variables.vectors, keep=keep, key=noise_key, f0=batch.f0
    )
    spectra = losses.spectral_terms(out.waveform, wave, w.spectra)
    committed = quantizer.commitment(out.quantized, cfg, keep=keep)
    terms = {
      "mel": w.mel * spectra.mel,
      "stft": w.stft * spectra.stft,
      "pitch": w.pitch * losses.pitch_loss(out.f0, batch.f0),
      "commitment": w.commitment * committed.mean(),
    }
    if self.head is not None:
      terms["semantic"] = w.semantic * self._semantic(params["semantic"], out, wave, batch.phones)
    if w.plays:
      found = self._adversarial(params["discriminator"], out.waveform, wave)
      terms |= {name: jnp.where(step >= w.adversarial_start, x, 0.0) for name, x in found.items()}
    metrics = {f"loss/{name}": value for name, value in terms.items()}
    metrics["semitones"] = losses.pitch_error(out.f0, batch.f0)
    metrics["codes/residual"] = committed
    metrics["codes/perplexity"] = quantizer.perplexity(variables.count)
    counts = quantizer.count(out.quantized, cfg, keep=keep)
    return Loss(loss=sum(terms.values()), metrics=metrics, counts=counts)

  def update(self, variables: Codebooks, counts: Counts, step: Array) -> Codebooks:
    """Moves the codebooks, and from time to time revives dead codes."""
    cfg = self.config.quantizer
    books = quantizer.moved(variables, counts, cfg)
    key = jax.random.fold_in(jax.random.key(0), step)
    new = quantizer.revived(books, cfg, key)
    now = (step + 1) % cfg.revive_every == 0
    return jax.tree.map(lambda a, b: jnp.where(now, a, b), new, books)

  def _semantic(self, params: Any, out: Reconstruction, wave: Array, phones: Array) -> Array:
    """On the first level's codes, with an estimator of its own to the latent."""
    seen = out.quantized.residuals[:, :, 0]
    first = out.quantized.taken[:, :, 0] + (seen - jax.lax.stop_gradient(seen))
    return self.teacher.loss(self.head.apply({"params": params}, first), wave, phones)

  def _adversarial(self, params: Any, fake: Array, real: Array) -> dict[str, Array]:
    w, stop = self.weights, jax.lax.stop_gradient
    judge = lambda p, x: self.discriminators.apply({"params": p}, x)
    on_real, on_fake = judge(params, real), judge(stop(params), fake)
    return {
      "generator": w.adversarial * game.generator_loss(on_fake),
      "feature": w.feature * game.feature_loss(on_real, on_fake),
      "discriminator": game.discriminator_loss(on_real, judge(params, stop(fake))),
    }
