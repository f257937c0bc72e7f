"""Top-k router with a selection-only balancing bias (ERNIE 5.0, section 1; Wang et al. 2024).

Letters: B rows, L positions, E experts, K choices per token.
Gotcha: the bias moves selection only; gates come from unbiased scores. It is state, not a parameter:
`update_bias` moves it once per optimizer step. All arithmetic is float32, also where a platform's products are
bfloat16 or TF32 by default: near ties would go one way in training and another in decoding.
"""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ernie_jax.backbone.config import ModelConfig
from ernie_jax.backbone.inputs import Context, LayerStats, no_stats
from ernie_jax.backbone.linear import fan_in_init
from ernie_jax.sharding.transports import on_own_tokens


@flax.struct.dataclass
class Routes:
  """Where tokens go.

  Attributes:
    experts: int32 [B, L, K], chosen experts, best first.
    gates: float32 [B, L, K], weights of the chosen experts; 0 for choices that do not count.
    live: bool [B, L, K], choices that count (not padding, not a rank past the row's top_k).
  """

  experts: Int[Array, "B L K"]
  gates: Float[Array, "B L K"]
  live: Bool[Array, "B L K"]


class Router(nn.Module):
  """Scores every expert from the hidden state alone: it never sees a modality."""

  config: ModelConfig

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "B L D"],
    bias: Float[Array, "E"],
    allowed: Bool[Array, "B E"],
    live: Bool[Array, "B L"],
    context: Context,
  ) -> tuple[Routes, LayerStats]:
    c = self.config
    init = fan_in_init((0,), ("embed", "router_experts"))
    kernel = self.param("kernel", init, (c.width, c.experts), jnp.float32)
    logits = jnp.matmul(x.astype(jnp.float32), kernel, precision=jax.lax.Precision.HIGHEST)
    rule = {"k": c.top_k, "scores": c.router.scores}
    routes = choose(
      logits, bias, allowed, live, context.top_k,
      renormalise=c.router.renormalise, scale=c.router.scale, **rule,
    )  # fmt: skip
    load_all, load = count_load(routes, context.counted, experts=c.experts)
    balance, z = jnp.zeros(()), jnp.zeros(())
    if c.router.balance_loss:
      balance = sequence_balance_loss(logits, allowed, live, context.top_k, **rule)
    if c.router.z_loss:
      z = router_z_loss(logits, live)
    stats = no_stats(c.experts)  # what is left is the transport's to say
    return routes, stats.replace(load=load, load_all=load_all, balance_loss=balance, z_loss=z)


def choose(
  logits: Float[Array, "B L E"],
  bias: Float[Array, "E"],
  allowed: Bool[Array, "B E"],
  live: Bool[Array, "B L"],
  top_k: Int[Array, "B"],
  *,
  k: int,
  scores: str = "softmax",
  renormalise: bool = True,
  scale: float = 1.0,
) -> Routes:
  """Chooses k experts for each token and weighs them.

  Experts outside `allowed` get neither selection nor a share of the softmax, so a restricted row
  equals a model that has only those experts. Ranks past the row's `top_k` are zeroed before the
  gates are renormalised, for the same reason.
  """
  inside = allowed[:, None, :]
  score = _scores(logits, allowed, scores)
  selection = jnp.where(inside, jax.lax.stop_gradient(score) + bias, -jnp.inf)
  # The partitioner would gather the scores of all tokens for it.
  experts = on_own_tokens(lambda s: jax.lax.top_k(s, k)[1], selection)
  gates = jnp.take_along_axis(score, experts, axis=-1)
  # A member with fewer allowed experts than k must not use the forbidden ones that fill the list.
  counts = jnp.take_along_axis(jnp.broadcast_to(inside, score.shape), experts, axis=-1)
  counts &= jnp.arange(k) < top_k[:, None, None]
  gates = jnp.where(counts, gates, 0.0)
  if renormalise:
    gates = gates / jnp.maximum(gates.sum(-1, keepdims=True), 1e-12)
  return Routes(experts=experts, gates=gates * scale, live=counts & live[..., None])


def _scores(
  logits: Float[Array, "B L E"], allowed: Bool[Array, "B E"], kind: str
) -> Float[Array, "B L E"]:
  """Softmax or sigmoid of the allowed experts' logits; 0 for the others."""
  masked = jnp.where(allowed[:, None, :], logits, -jnp.inf)
  return jax.nn.softmax(masked, axis=-1) if kind == "softmax" else jax.nn.sigmoid(masked)


def count_load(
  routes: Routes, counted: Bool[Array, "B"], *, experts: int
) -> tuple[Float[Array, "E"], Float[Array, "E"]]:
  """Assignments per expert: by all rows, and by the rows that drive the bias."""
  by_row = _load_by_row(routes, experts)
  return by_row.sum(0), jnp.where(counted[:, None], by_row, 0.0).sum(0)


def _load_by_row(routes: Routes, experts: int) -> Float[Array, "B E"]:
  one_hot = jax.nn.one_hot(routes.experts, experts, dtype=jnp.float32)
  return jnp.einsum("blke,blk->be", one_hot, routes.live.astype(jnp.float32))


def update_bias(
  bias: Float[Array, "*N E"], load: Float[Array, "*N E"], *, rate: float | Array
) -> Float[Array, "*N E"]:
  """bias + rate * sign(mean load - load); layers without any counted assignment keep theirs.

  `load` must be the global count of the whole optimizer step (Wang et al. 2024, Algorithm 1).
  """
  mean = load.mean(axis=-1, keepdims=True)
  return bias + rate * jnp.sign(mean - load)


def sequence_balance_loss(
  logits: Float[Array, "B L E"],
  allowed: Bool[Array, "B E"],
  live: Bool[Array, "B L"],
  top_k: Int[Array, "B"],
  *,
  k: int,
  scores: str = "softmax",
) -> Float[Array, ""]:
  """Mean over rows of sum_e f_e P_e, which is 1 at perfect balance (DeepSeek-V3, eq. 17-20).

  f_e: share of the assignments that the row would have without a bias, times the number of allowed experts; P_e:
  mean normalised score.
  """
  score = _scores(logits, allowed, scores)
  probability = score / jnp.maximum(score.sum(-1, keepdims=True), 1e-20)
  weight = live.astype(jnp.float32)
  tokens = jnp.maximum(weight.sum(1), 1.0)
  mean_probability = jnp.einsum("ble,bl->be", probability, weight) / tokens[:, None]
  unbiased = jnp.zeros(logits.shape[-1])
  routes = choose(logits, unbiased, allowed, live, top_k, k=k, scores=scores)
  counts = _load_by_row(routes, logits.shape[-1])
  share = counts / jnp.maximum(counts.sum(-1, keepdims=True), 1.0)
  share *= allowed.sum(-1, keepdims=True)
  by_row = (jax.lax.stop_gradient(share) * mean_probability).sum(-1)
  rows = (weight.sum(1) > 0).astype(jnp.float32)
  return (by_row * rows).sum() / jnp.maximum(rows.sum(), 1.0)


def router_z_loss(logits: Float[Array, "B L E"], live: Bool[Array, "B L"]) -> Float[Array, ""]:
  """Mean squared log-normaliser of live tokens (Zoph et al. 2022)."""
  weight = live.astype(jnp.float32)
  normaliser = jax.nn.logsumexp(logits, axis=-1)
  return (jnp.square(normaliser) * weight).sum() / jnp.maximum(weight.sum(), 1.0)
