"""Cross-entropy over a large vocabulary without ever holding all logits.

Letters: B rows, L positions, D width, V vocabulary.
The loss walks over chunks of positions. Its gradient is formed in the same walk, while a chunk's logits
are at hand, so logits are computed once and never stored: three matrix products in all. On a mesh each device walks
over its own positions with the whole kernel (its part of the vocabulary, if the tensor axis divides that), and the
kernel's gradients are added up once, after the walk.
"""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from ernie_jax.kernels.linear import sum_of_outer
from ernie_jax.kernels.platform import platform
from ernie_jax.sharding.mesh import BATCH_AXES, active_mesh

# Logits that a device holds at once. On CPU 16 MB, which stay in the last-level cache; elsewhere 512 MB, as each chunk reads
# and writes the whole gradient of the kernel.
_CHUNK_OF_PLATFORM = {"cpu": 1 << 22}
_CHUNK = 1 << 27


def cross_entropy_sum(
  hidden: Float[Array, "B L D"],
  kernel: Float[Array, "D V"],
  target: Int[Array, "B L"],
  weight: Float[Array, "B L"],
) -> Float[Array, ""]:
  """Sum over positions of weight * -log softmax(hidden @ kernel)[target], in float32.

  Differentiable in `hidden` and `kernel`. Positions of weight 0 contribute nothing, whatever they hold.
  """
  return sum_and_losses(hidden, kernel, target, weight)[0]


def token_losses(hidden, kernel, target) -> Float[Array, "B L"]:
  """-log softmax(hidden @ kernel)[target] of every position, in float32 (for evaluation)."""

  def chunk(_, one):
    h, t = one
    logits = _logits(h, kernel)
    return None, jax.nn.logsumexp(logits, axis=-1) - _pick(logits, t)

  _, losses = jax.lax.scan(chunk, None, _chunks(kernel, hidden, target))
  return jnp.moveaxis(losses, 0, 1).reshape(hidden.shape[0], -1)[:, : hidden.shape[1]]


@jax.custom_vjp
def sum_and_losses(hidden, kernel, target, weight) -> tuple[Float[Array, ""], Float[Array, "B L"]]:
  """`cross_entropy_sum`, and what each position lost before it was weighed: no gradient goes through the latter.

  A sum of sums, each of other positions, is so one walk: with their factors in `weight`. The loss of a position of
  weight 0 is 0.
  """
  losses = jnp.where(weight > 0, token_losses(hidden, kernel, target), 0.0)
  return jnp.sum(losses * weight), losses


def _forward(hidden, kernel, target, weight):
  mesh = active_mesh()
  if mesh is None:
    return _walk(hidden, kernel, target, weight)
  over = (*BATCH_AXES, "context")
  # The kernel comes whole but for the tensor axis, and its gradient goes back in the parts that it is stored in.
  scattered = hidden.shape[-1] % mesh.shape["fsdp"] == 0

  def on_device(hidden, kernel, target, weight):
    (total, losses), (d_hidden, d_kernel) = _walk(hidden, kernel, target, weight)
    # XLA would add up what is gathered once a chunk, were this walk not each device's own.
    if scattered:
      d_kernel = jax.lax.psum_scatter(d_kernel, "fsdp", scatter_dimension=0, tiled=True)
      d_kernel = jax.lax.psum(d_kernel, tuple(axis for axis in over if axis != "fsdp"))
    else:
      d_kernel = jax.lax.psum(d_kernel, over)
    return (jax.lax.psum(total, over), losses), (d_hidden, d_kernel)

  tokens, whole = PartitionSpec(BATCH_AXES, "context"), PartitionSpec()
  run = jax.shard_map(
    on_device,
    in_specs=(tokens, whole, tokens, tokens),
    out_specs=((whole, tokens), (tokens, PartitionSpec("fsdp") if scattered else whole)),
    axis_names=set(over),
    check_vma=False,
  )
  return run(hidden, kernel, target, weight)


def _walk(hidden, kernel, target, weight):
  """Values and gradients of `sum_and_losses` on one device."""
  b, length = hidden.shape[:2]

  def chunk(carry, one):
    total, d_kernel = carry
    h, t, w = one
    h = jnp.where((w > 0)[..., None], h, 0)
    logits = _logits(h, kernel)
    top = logits.max(-1, keepdims=True)
    exponent = jnp.exp(logits - top)
    normaliser = exponent.sum(-1, keepdims=True)
    losses = jnp.where(w > 0, (jnp.log(normaliser) + top)[..., 0] - _pick(logits, t), 0.0)
    hit = t[..., None] == jnp.arange(kernel.shape[1])
    d_logits = (exponent / normaliser - hit) * w[..., None]
    d_logits = d_logits.astype(h.dtype)
    d_h = jnp.einsum("blv,dv->bld", d_logits, kernel.astype(h.dtype))
    d_kernel += sum_of_outer(h, d_logits, tokens=2, dtype=jnp.float32)
    return (total + jnp.sum(losses * w), d_kernel), (d_h, losses)

  start = (jnp.zeros((), jnp.float32), jnp.zeros(kernel.shape, jnp.float32))
  chunks = _chunks(kernel, hidden, target, weight)
  (total, d_kernel), (d_hidden, losses) = jax.lax.scan(chunk, start, chunks)
  whole = lambda x: jnp.moveaxis(x, 0, 1).reshape(b, -1, *x.shape[3:])[:, :length]
  return (total, whole(losses)), (whole(d_hidden), d_kernel.astype(kernel.dtype))


def _backward(saved, cotangents):
  (d_hidden, d_kernel), (cotangent, _) = saved, cotangents
  scaled = lambda g: (g * cotangent).astype(g.dtype)
  return scaled(d_hidden), scaled(d_kernel), None, None


sum_and_losses.defvjp(_forward, _backward)


def _logits(h, kernel):
  return jnp.einsum("bld,dv->blv", h, kernel.astype(h.dtype), preferred_element_type=jnp.float32)


def _pick(logits, target):
  return jnp.take_along_axis(logits, target[..., None], axis=-1)[..., 0]


def _chunks(kernel, *arrays):
  """Splits [B, L, ...] arrays along L into [chunks, B, c, ...]; rows stay whole, so they stay sharded."""
  b, length = arrays[0].shape[:2]
  budget = _CHUNK_OF_PLATFORM.get(platform(), _CHUNK)
  count = max(1, -(-b * length * kernel.shape[1] // budget))
  size = -(-length // min(count, length))
  count = -(-length // size)

  def split(x):
    x = jnp.pad(x, [(0, 0), (0, count * size - length)] + [(0, 0)] * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(b, count, size, *x.shape[2:]), 1, 0)

  return tuple(split(x) for x in arrays)
