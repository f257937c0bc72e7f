"""Pulses, noise and overlapping blocks: what decoders make sound of. Causal, with state for streaming.

Letters: B rows, T codec frames, F frames of `HOP` samples, S samples, K blocks' length in frames.
"""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ernie_jax.audio.analysis import HOP, RATE

FRAMES = 10  # frames of a codec frame
STRIDE = FRAMES * HOP  # samples of a codec frame


@flax.struct.dataclass
class Phase:
  """Where an oscillator stands between codec frames.

  Attributes:
    turn: float32 [B], in cycles, in [0, 1).
    left: float32 [B], of a pulse, what falls to the next sample.
  """

  turn: Float[Array, "B"]
  left: Float[Array, "B"]


@flax.struct.dataclass
class Voice:
  """An oscillator's output and its state after it.

  Attributes:
    pulses: float32 [B, S], of unit power; each pulse is shared by two samples.
    turns: float32 [B, F], in cycles, at the start of each frame.
    phase: at the end.
  """

  pulses: Float[Array, "B S"]
  turns: Float[Array, "B F"]
  phase: Phase


def still(rows: int) -> Phase:
  """The state before the first codec frame: half a turn, so that no pulse falls just on its edge."""
  return Phase(turn=jnp.full(rows, 0.5), left=jnp.zeros(rows))


def voice(f0: Float[Array, "B F"], phase: Phase) -> Voice:
  """A pulse train at the pitch of each frame. No gradient: pitch is learned from its own loss.

  The phase is kept codec frame by codec frame, by the same operations whether a clip comes whole or in
  parts, so rounding never makes a difference between them.
  """
  rows, frames = f0.shape
  step = jax.lax.stop_gradient(f0).reshape(rows, -1, FRAMES) / RATE  # cycles a sample
  inside = HOP * (jnp.cumsum(step, axis=-1) - step)  # of each frame's start
  advance = HOP * step.sum(-1)
  after, before = jax.lax.scan(lambda turn, add: ((turn + add) % 1, turn), phase.turn, advance.T)
  turns = before.T[..., None] + inside
  samples = turns[..., None] + step[..., None] * jnp.arange(1, HOP + 1)  # after each sample
  late = samples % 1 / step[..., None]  # samples since the last turn
  height = jnp.where(late < 1, jax.lax.rsqrt(step)[..., None], 0)
  now, then = height * late, height * (1 - late)  # one sample of delay keeps it causal
  now, then = now.reshape(rows, -1), then.reshape(rows, -1)
  pulses = now + jnp.concatenate([phase.left[:, None], then[:, :-1]], axis=1)
  return Voice(
    pulses=pulses, turns=turns.reshape(rows, frames) % 1, phase=Phase(turn=after, left=then[:, -1])
  )


def noise(key: Array, start: Int[Array, ""], frames: int) -> Float[Array, "S"]:
  """White noise of codec frames `start` on, each drawn from its number: parts equal the whole."""
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, start + jnp.arange(frames))
  return jax.vmap(lambda k: jax.random.normal(k, (STRIDE,)))(keys).reshape(-1)


def overlap(
  blocks: Float[Array, "B F W"], tail: Float[Array, "B K HOP"] | None
) -> tuple[Float[Array, "B S"], Float[Array, "B K HOP"]]:
  """Adds blocks that start `HOP` samples apart; what ends after the last frame is the next tail."""
  rows, count, length = blocks.shape
  parts = blocks.reshape(rows, count, length // HOP, HOP)
  late = parts.shape[2] - 1
  total = sum(jnp.pad(parts[:, :, i], ((0, 0), (i, late - i), (0, 0))) for i in range(late + 1))
  if tail is not None:
    total = total.at[:, :late].add(tail)
  return total[:, :count].reshape(rows, -1), total[:, count:]
