"""Training the visual tokenizer: a task of the common loop, adversary included, in one backward pass.

Letters: B rows, T frames, n latent frames, H W pixels, K scales.

The discriminator's parameters sit beside the tokenizer's, and each side sees the other's through a
stop-gradient: one gradient then holds both directions of the game, and the loop needs not know of it.
The teacher is frozen and is no part of the state: the run keeps it as a file.
"""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt8

from ernie_jax.train.task import Loss
from ernie_jax.vision import losses
from ernie_jax.vision import tokenizer as tokenizer_lib
from ernie_jax.vision.discriminator import Discriminator, DiscriminatorConfig
from ernie_jax.vision.quantizer import bit_usage, draw_scales
from ernie_jax.vision.resize import resize
from ernie_jax.vision.teacher import SemanticBranch, Teacher
from ernie_jax.vision.tokenizer import Reconstruction, TokenizerConfig, VisualTokenizer

_LECAM_DECAY = 0.99  # of the moving averages of the discriminator's logits


@dataclasses.dataclass(frozen=True)
class TokenizerLossConfig:
  """Weights of the objective; 0 leaves a term out. Defaults: what helps at laptop size.

  Attributes:
    squared: mean squared error of pixels in [-1, 1].
    detail: how much more of it counts where there is contrast (`losses.squared_error`).
    edges: absolute error of differences between neighbouring pixels.
    commitment, codebook: mean over scales of the distance of residuals to codes, and of codes to
      residuals.
    entropy: of doubt - diversity of the bits (`losses.bit_entropy`), with `sharpness` of the soft bit.
    scale_drop: probability with which a row leaves out each scale but the first and the last.
    perceptual: distance of the teacher's maps.
    semantic: cosine distance of the added branch to the teacher's last map.
    adversarial: of the discriminator's opinion, from step `adversarial_start` on.
    lecam: of the discriminator's regulariser.
  """

  squared: float = 10.0
  detail: float = 10.0
  edges: float = 0.0
  commitment: float = 0.1
  codebook: float = 0.1
  entropy: float = 0.0
  sharpness: float = 2.0
  scale_drop: float = 0.0
  perceptual: float = 0.0
  semantic: float = 0.0
  adversarial: float = 0.0
  adversarial_start: int = 0
  lecam: float = 0.001

  def __post_init__(self):
    for field in dataclasses.fields(self):
      if getattr(self, field.name) < 0:
        raise ValueError(f"{field.name} must not be negative, got {getattr(self, field.name)}")
    if self.scale_drop >= 1:
      raise ValueError(f"scale_drop must be below 1, got {self.scale_drop}")
    if self.sharpness == 0:
      raise ValueError("sharpness must be positive")

  @property
  def needs_teacher(self) -> bool:
    """Whether a term compares with a teacher."""
    return self.perceptual > 0 or self.semantic > 0


@flax.struct.dataclass
class MediaBatch:
  """A micro-batch of the tokenizer.

  Attributes:
    video: uint8 [B, T, H, W, 3]; pictures are videos of one frame.
  """

  video: UInt8[Array, "B T H W 3"]


class TokenizerTask:
  """The `Task` of training a visual tokenizer."""

  def __init__(
    self,
    tokenizer: TokenizerConfig,
    loss: TokenizerLossConfig,
    *,
    discriminator: DiscriminatorConfig | None = None,
    teacher: Teacher | None = None,
    start: Any = None,
  ):
    """A teacher where the loss needs one; `start`: parameters to start the tokenizer from, or None.

    Raises:
      ValueError: no teacher where the loss needs one.
    """
    if loss.needs_teacher and teacher is None:
      raise ValueError("perceptual and semantic losses need a teacher")
    self.config, self.weights, self.teacher, self.start = tokenizer, loss, teacher, start
    self.model = VisualTokenizer(tokenizer)
    self.discriminator = Discriminator(discriminator or DiscriminatorConfig())
    self.branch = None
    if loss.semantic:
      picture = jax.ShapeDtypeStruct((1, tokenizer.side, tokenizer.side, 3), jnp.float32)
      self.branch = SemanticBranch(jax.eval_shape(teacher.maps, picture)[-1].shape[-1])

  def init(self, key: Array) -> tuple[Any, losses.LogitMeans]:
    """Boxed parameters of all networks that train, and the discriminator's averages."""
    params = {"tokenizer": tokenizer_lib.boxed_params(self.config, key)}
    if self.start is not None:
      is_box = lambda x: hasattr(x, "replace_boxed")
      put = lambda box, value: box.replace_boxed(jnp.asarray(value))
      params["tokenizer"] = jax.tree.map(put, params["tokenizer"], self.start, is_leaf=is_box)
    c = self.config
    if self.weights.adversarial:
      video = jnp.zeros((1, 1, c.side, c.side, 3))
      params["discriminator"] = self.discriminator.init(jax.random.fold_in(key, 1), video)["params"]
    if self.branch is not None:
      total = jnp.zeros((1, 1, c.quantizer.side, c.quantizer.side, c.quantizer.bits))
      params["semantic"] = self.branch.init(jax.random.fold_in(key, 2), total)["params"]
    zero = jnp.zeros((), jnp.float32)
    return params, losses.LogitMeans(real=zero, fake=zero)

  def loss(
    self, params: Any, variables: losses.LogitMeans, batch: MediaBatch, key: Array, step: Array
  ) -> Loss:
    """The whole objective on one micro-batch."""
    w, cfg = self.weights, self.config.quantizer
    video = tokenizer_lib.to_float(batch.video)
    keep = draw_scales(key, len(video), cfg, drop=w.scale_drop) if w.scale_drop else None
    out = self.model.apply({"params": params["tokenizer"]}, video, keep)
    terms = self._pixel_terms(out, video)
    terms["commitment"] = w.commitment * losses.commitment(out.quantized, cfg, keep=keep).mean()
    terms["codebook"] = w.codebook * losses.codebook(out.quantized, cfg, keep=keep).mean()
    if w.entropy:
      found = losses.bit_entropy(out.quantized, cfg, sharpness=w.sharpness, keep=keep)
      terms["entropy"] = w.entropy * (found.doubt - found.diversity)
    if self.branch is not None:
      terms["semantic"] = w.semantic * self._semantic(params["semantic"], out, video)
    counts = variables
    if w.adversarial:
      found, counts = self._adversarial(params["discriminator"], variables, out.video, video)
      terms |= {name: jnp.where(step >= w.adversarial_start, x, 0.0) for name, x in found.items()}
    metrics = {f"loss/{name}": value for name, value in terms.items()}
    error = jnp.square(jnp.clip(out.video, -1, 1) - video).mean()
    metrics["psnr"] = 10 * jnp.log10(4 / jnp.maximum(error, 1e-10))
    metrics["bits/usage"] = bit_usage(out.quantized.bits, cfg, keep=keep)
    metrics["bits/magnitude"] = jnp.exp(params["tokenizer"]["magnitude"]["scale"])
    counts = {"logits": counts, "microbatches": jnp.ones(())}
    return Loss(loss=sum(terms.values()), metrics=metrics, counts=counts)

  def update(self, variables: losses.LogitMeans, counts: Any, step: Array) -> losses.LogitMeans:
    """Moves the averages of the discriminator's logits, once it plays."""
    if not self.weights.adversarial:
      return variables
    plays = step >= self.weights.adversarial_start

    def move(average, total):
      new = _LECAM_DECAY * average + (1 - _LECAM_DECAY) * total / counts["microbatches"]
      return jnp.where(plays, new, average)

    return jax.tree.map(move, variables, counts["logits"])

  def _pixel_terms(self, out: Reconstruction, video: Array) -> dict[str, Array]:
    w = self.weights
    terms = {"squared": w.squared * losses.squared_error(out.video, video, detail=w.detail)}
    if w.edges:
      terms["edges"] = w.edges * losses.edge_loss(out.video, video)
    if w.perceptual:
      flat = lambda x: x.reshape(-1, *x.shape[2:])
      wanted = jax.lax.stop_gradient(self.teacher.maps(flat(video)))
      found = self.teacher.maps(flat(out.video))
      terms["perceptual"] = w.perceptual * losses.perceptual_loss(found, wanted)
    return terms

  def _semantic(self, params: Any, out: Reconstruction, video: Array) -> Array:
    """Against the teacher's view of the last frame that each latent frame stands for."""
    frames = video[:, :: self.config.temporal]
    wanted = self.teacher.maps(frames.reshape(-1, *frames.shape[2:]))[-1]
    side = self.config.quantizer.side
    wanted = resize(wanted, side, "area" if side < wanted.shape[1] else "linear")
    wanted = jax.lax.stop_gradient(wanted.reshape(*frames.shape[:2], *wanted.shape[1:]))
    found = self.branch.apply({"params": params}, out.quantized.total)
    return losses.cosine_distance(found, wanted)

  def _adversarial(self, params, average: losses.LogitMeans, fake: Array, real: Array):
    """Both sides' terms, and the means of the logits."""
    w, stop = self.weights, jax.lax.stop_gradient
    judge = lambda p, x: self.discriminator.apply({"params": p}, x)
    on_real, on_fake = judge(params, real), judge(params, stop(fake))
    terms = {
      "generator": w.adversarial * losses.generator_loss(judge(stop(params), fake)),
      "discriminator": losses.discriminator_loss(on_real, on_fake),
      "lecam": w.lecam * losses.lecam_loss(on_real, on_fake, average),
    }
    return terms, losses.LogitMeans(real=stop(on_real.mean()), fake=stop(on_fake.mean()))
