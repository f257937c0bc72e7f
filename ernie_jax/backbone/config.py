"""Shape of the unified backbone: one frozen dataclass, and what its numbers cost.

Letters: N layers, D model width, H query heads, G key-value heads, E experts, K experts per token,
F expert width, V vocabulary.
"""

import dataclasses
from typing import Literal

from ernie_jax.vision.quantizer import QuantizerConfig


@dataclasses.dataclass(frozen=True)
class RouterConfig:
  """How tokens choose experts (ERNIE 5.0, sections 1 and 11).

  Attributes:
    scores: softmax over experts, or an independent sigmoid for each.
    renormalise: divide the chosen scores by their sum, so gates add up to `scale`.
    scale: factor on all gates.
    bias_rate: step of the load-balancing bias for each optimizer step; 0 turns balancing off.
    balance_loss: weight of the sequence-wise auxiliary loss; the report uses none.
    z_loss: weight of the squared log-normaliser of the router; the report mentions none.
  """

  scores: Literal["softmax", "sigmoid"] = "softmax"
  renormalise: bool = True
  scale: float = 1.0
  bias_rate: float = 1e-3
  balance_loss: float = 0.0
  z_loss: float = 0.0

  def __post_init__(self):
    for name in ("bias_rate", "balance_loss", "z_loss"):
      if getattr(self, name) < 0:
        raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class AudioConfig:
  """What the model reads and predicts of sound (ERNIE 5.0, section 4).

  Attributes:
    levels, codes: R levels of so many codes, as the codec makes them; each head has the end as one more.
    voice: numbers that say how a speaker sounds.
    heads: "depth": level r is predicted after layer N - R + r, and its code is added to the hidden
      state before the next layer (next-codec prediction). "last": all levels are predicted after the
      last layer, each code being added before the next head, with no layer in between (for comparison).

  Raises:
    ValueError: a size below 1, or other heads.
  """

  levels: int = 4
  codes: int = 256
  voice: int = 22
  heads: Literal["depth", "last"] = "depth"

  def __post_init__(self):
    for name in ("levels", "codes", "voice"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
    if self.heads not in ("depth", "last"):
      raise ValueError(f"heads must be 'depth' or 'last', got {self.heads!r}")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """The backbone and its text head.

  The report discloses no widths; every default here is our choice at laptop size.

  Attributes:
    vocab_size: V. Token ids from the text tokenizer must stay below it.
    depth: N, all layers, dense and MoE.
    width: D.
    heads: H query heads; kv_heads: G, shared by H / G query heads each; head_dim: size of one head.
    qk_norm: RMS-normalise queries and keys per head, with learned scales.
    rope_base: base of Uni-RoPE's frequencies (report: 1e6).
    experts: E in every MoE layer; top_k: K; expert_width: F.
    shared_width: hidden width of the always-on expert; 0 for none.
    dense_layers: how many of the first layers have a dense MLP in place of experts; dense_width:
      its hidden width.
    router: see `RouterConfig`.
    tie_embeddings: the text head is the transposed embedding.
    mtp_depth: number of multi-token-prediction modules, each predicting one token further.
    mtp_width: hidden width of the dense MLP inside an MTP module.
    top_layers: R, how many of the last layers are unrolled instead of scanned. The audio heads sit
      there, and elastic depth never drops them.
    norm_eps: epsilon of every RMSNorm.
    remat: what the backward pass recomputes: nothing, everything but the layers' inputs, or
      everything but the results of matrix products.
    scan: scan over the middle layers; False unrolls them: a little faster on CPU, slower to compile when deep.
    dtype: compute type of matrix products; router, norms, softmax and losses are always float32.
    attention, grouped_matmul: kernel back ends, see `ernie_jax.kernels`.
    vision: the code of the visual tokenizer whose bits the model reads and predicts; None: a model
      without vision, which has none of its parameters.
    audio: the code of the audio codec, likewise.
  """

  vocab_size: int
  depth: int = 4
  width: int = 128
  heads: int = 4
  kv_heads: int = 2
  head_dim: int = 32
  qk_norm: bool = True
  rope_base: float = 1e6
  experts: int = 16
  top_k: int = 4
  expert_width: int = 64
  shared_width: int = 64
  dense_layers: int = 0
  dense_width: int = 0
  router: RouterConfig = RouterConfig()
  tie_embeddings: bool = True
  mtp_depth: int = 0
  mtp_width: int = 0
  top_layers: int = 0
  norm_eps: float = 1e-5
  remat: Literal["none", "full", "dots"] = "none"
  scan: bool = True
  dtype: Literal["float32", "bfloat16"] = "float32"
  attention: Literal["auto", "dense", "blocked"] = "auto"
  grouped_matmul: Literal["auto", "reference", "blocked", "megablox", "ragged"] = "auto"
  vision: QuantizerConfig | None = None
  audio: AudioConfig | None = None

  def __post_init__(self):
    positive = ("vocab_size", "depth", "width", "heads", "kv_heads", "head_dim")
    for name in positive:
      if getattr(self, name) < 1:
        raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
    if self.heads % self.kv_heads:
      raise ValueError(f"kv_heads ({self.kv_heads}) must divide heads ({self.heads})")
    if self.head_dim % 2:
      raise ValueError(f"head_dim must be even for rotary positions, got {self.head_dim}")
    if not 0 <= self.dense_layers <= self.depth:
      raise ValueError(f"dense_layers ({self.dense_layers}) must be between 0 and depth")
    if self.dense_layers and self.dense_width < 1:
      raise ValueError("dense_width must be set when there are dense_layers")
    if self.moe_layers:
      if not 1 <= self.top_k <= self.experts:
        raise ValueError(f"top_k ({self.top_k}) must be between 1 and experts ({self.experts})")
      if self.expert_width < 1:
        raise ValueError(f"expert_width must be at least 1, got {self.expert_width}")
    if not 0 <= self.top_layers <= self.depth:
      raise ValueError(f"top_layers ({self.top_layers}) must be between 0 and depth")
    between = 0 if self.audio is None or self.audio.heads == "last" else self.audio.levels
    if self.top_layers < between:
      raise ValueError(
        f"top_layers ({self.top_layers}) must be at least audio.levels ({between}): heads stand between"
        " the last layers"
      )
    if self.mtp_depth and self.mtp_width < 1:
      raise ValueError("mtp_width must be set when mtp_depth is not 0")

  @property
  def moe_layers(self) -> int:
    """How many layers have experts."""
    return self.depth - self.dense_layers

  def segments(self) -> tuple["Segment", ...]:
    """The stack as runs of equal layers, bottom to top: each is scanned or unrolled as one."""
    top = self.top_layers
    dense_below = min(self.dense_layers, self.depth - top)
    runs = [
      Segment("dense_layers", 0, dense_below, moe=False),
      Segment("layers", dense_below, self.depth - top, moe=True),
    ]
    for i in range(self.depth - top, self.depth):
      name = f"top_{i - (self.depth - top)}"
      runs.append(Segment(name, i, i + 1, moe=i >= self.dense_layers, stacked=False))
    return tuple(r for r in runs if r.start < r.stop)


@dataclasses.dataclass(frozen=True)
class Segment:
  """Layers start..stop-1, stored under one parameter name.

  Attributes:
    name: key in the parameter tree.
    start, stop: layer numbers.
    moe: the layers have experts.
    stacked: the parameters have a leading layer axis.
  """

  name: str
  start: int
  stop: int
  moe: bool
  stacked: bool = True

  @property
  def length(self) -> int:
    """Number of layers."""
    return self.stop - self.start
