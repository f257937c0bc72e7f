"""Grouped matmul: rows sorted by expert, each group times its own expert's matrix, fast per platform.

One signature over four back ends: `reference` (every row by every expert, for tests), `blocked` (CPU and any
other platform), `megablox` (TPU), `ragged` (GPU).

M rows of the buffer, D width of a row, E experts (groups), F width of the output.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ernie_jax.errors import UserError
from ernie_jax.kernels.blocked import blocked
from ernie_jax.kernels.megablox import megablox
from ernie_jax.kernels.platform import platform
from ernie_jax.kernels.ragged import ragged, zero_dead_rows

BACKENDS = ("auto", "reference", "blocked", "megablox", "ragged")
_OF_PLATFORM = {"tpu": "megablox", "gpu": "ragged"}


def resolve(backend: str) -> str:
  """The back end that `backend` names; "auto" is that of the platform.

  Raises UserError on an unknown name.
  """
  if backend not in BACKENDS:
    raise UserError(
      f"grouped matmul backend {backend!r} is unknown; use one of {', '.join(BACKENDS)}"
    )
  if backend == "auto":
    return _OF_PLATFORM.get(platform(), "blocked")
  return backend


def grouped_matmul(
  x_MD: Float[Array, "M D"],
  w_EDF: Float[Array, "E D F"],
  group_sizes_E: Int[Array, "E"],
  *,
  backend: str = "auto",
  alignment: int = 1,
) -> Float[Array, "M F"]:
  """Rows of group e times `w_EDF[e]`, where group e is the next `group_sizes_E[e]` rows of `x_MD`.

  Accumulates in float32 and returns the dtype of `x_MD`. Rows past the last group come out as zeros and give
  no gradient, whatever lies there, NaN included. `alignment` is the caller's promise that every group size
  is a multiple of it; a back end may then use tiles that no group boundary crosses.
  Raises UserError on an unknown back end, ValueError where shapes do not fit.
  """
  if x_MD.ndim != 2 or w_EDF.ndim != 3 or x_MD.shape[1] != w_EDF.shape[1]:
    raise ValueError(f"rows {x_MD.shape} do not fit expert matrices {w_EDF.shape}")
  if group_sizes_E.shape != w_EDF.shape[:1]:
    raise ValueError(f"group sizes {group_sizes_E.shape} do not fit expert matrices {w_EDF.shape}")
  name = resolve(backend)
  if name == "megablox":
    return megablox(x_MD, w_EDF, group_sizes_E, alignment)
  kernel = {"reference": reference, "blocked": blocked, "ragged": ragged}[name]
  return kernel(x_MD, w_EDF, group_sizes_E)


def reference(x_MD, w_EDF, group_sizes_E) -> Float[Array, "M F"]:
  """Every row by every expert, all but its own masked: E times the work, for tests only."""
  end_E = jnp.cumsum(group_sizes_E)
  row_M1 = jnp.arange(x_MD.shape[0])[:, None]
  own_ME = (row_M1 < end_E) & (row_M1 >= end_E - group_sizes_E)
  x_MD = zero_dead_rows(x_MD, group_sizes_E)
  out_MEF = jnp.einsum("md,edf->mef", x_MD, w_EDF, preferred_element_type=jnp.float32)
  return jnp.sum(jnp.where(own_ME[:, :, None], out_MEF, 0), axis=1).astype(x_MD.dtype)
