"""x times a matrix, and the gradient of the matrix: a sum of outer products over all tokens.

XLA's CPU compiler multiplies by the transpose of a large matrix at about half of its usual rate, and where it transposes
first it folds the copy into whatever loop made the operand, which then writes with a stride. On CPU the copy is therefore
made here, apart from both. On other platforms `sum_of_outer` is the plain product.

Letters: T tokens, I inputs, O outputs; each stands for any number of axes.
"""

import functools

import jax
from jax import lax
from jaxtyping import Array, Float


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def linear(
  x: Float[Array, "..."], kernel: Float[Array, "..."], in_axes: int = 1
) -> Float[Array, "..."]:
  """x [T.., I..] times a kernel [I.., O..] over the kernel's first `in_axes` axes; all of one type.

  Differentiable in reverse only.
  """
  return _product(x, kernel, in_axes)


def _product(x, kernel, in_axes):
  dims = (tuple(range(x.ndim - in_axes, x.ndim)), tuple(range(in_axes)))
  return lax.dot_general(x, kernel, (dims, ((), ())))


def _forward(x, kernel, in_axes):
  # Not by `linear` itself: what recomputes all but products must see a product.
  return _product(x, kernel, in_axes), (x, kernel)


def _backward(in_axes, saved, dy):
  x, kernel = saved
  out_axes = kernel.ndim - in_axes
  dims = (tuple(range(dy.ndim - out_axes, dy.ndim)), tuple(range(in_axes, kernel.ndim)))
  dx = lax.dot_general(dy, kernel, (dims, ((), ())))
  return dx, sum_of_outer(x, dy, tokens=x.ndim - in_axes)


linear.defvjp(_forward, _backward)


def sum_of_outer(
  x: Float[Array, "..."], y: Float[Array, "..."], *, tokens: int = 1, dtype=None
) -> Float[Array, "..."]:
  """Sum of outer(x, y) over the `tokens` leading axes of both, [I.., O..] in `dtype`; None: that of x and y."""
  cpu, others = (functools.partial(f, tokens=tokens, dtype=dtype) for f in (_copied, _plain))
  return lax.platform_dependent(x, y, cpu=cpu, default=others)


def _copied(x, y, *, tokens, dtype):
  dims = (tuple(range(x.ndim - tokens, x.ndim)), tuple(range(tokens)))
  return lax.dot_general(transposed(x, tokens), y, (dims, ((), ())), preferred_element_type=dtype)


def _plain(x, y, *, tokens, dtype):
  dims = (tuple(range(tokens)), tuple(range(tokens)))
  return lax.dot_general(x, y, (dims, ((), ())), preferred_element_type=dtype)


def transposed(x: Float[Array, "..."], tokens: int = 1) -> Float[Array, "..."]:
  """x with its `tokens` leading axes last, as a copy that XLA joins with nothing before or after it."""
  moved = lax.transpose(lax.optimization_barrier(x), (*range(tokens, x.ndim), *range(tokens)))
  return lax.optimization_barrier(moved)
