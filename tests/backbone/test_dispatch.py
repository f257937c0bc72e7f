"""Dispatch: the plan is a stable sort that drops nothing; gather and combine follow it both ways."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_jax.backbone import dispatch as room

_plan = jax.jit(room.plan, static_argnames=("num_experts", "alignment"))


def _routing(seed, tokens, choices, experts, dead):
  rng = np.random.default_rng(seed)
  chosen = rng.integers(0, experts, size=(tokens, choices))
  return jnp.asarray(chosen, jnp.int32), jnp.asarray(rng.random((tokens, choices)) >= dead)


@given(
  seed=st.integers(0, 1000),
  tokens=st.sampled_from([1, 33]),
  choices=st.sampled_from([1, 3]),
  experts=st.sampled_from([5, 64]),
  dead=st.sampled_from([0.0, 0.4, 1.0]),
  alignment=st.sampled_from([1, 8]),
)
@settings(deadline=None, max_examples=40)
def test_every_live_assignment_has_its_own_slot_in_its_expert_and_token_order_is_kept(
  seed, tokens, choices, experts, dead, alignment
):
  chosen, live = _routing(seed, tokens, choices, experts, dead)
  plan = _plan(chosen, live, num_experts=experts, alignment=alignment)
  sizes, slot, filled_by = (
    np.asarray(a) for a in (plan.group_sizes_E, plan.slot_TK, plan.assignment_M)
  )
  slots = len(filled_by)
  assert (sizes % alignment == 0).all() and sizes.sum() <= slots and slots % alignment == 0
  expected = np.full(slots, tokens * choices)
  starts = np.cumsum(sizes) - sizes
  chosen, live = np.asarray(chosen).reshape(-1), np.asarray(live).reshape(-1)
  for e in range(experts):
    mine = np.flatnonzero(live & (chosen == e))
    assert len(mine) <= sizes[e] < len(mine) + alignment
    expected[starts[e] : starts[e] + len(mine)] = mine
  np.testing.assert_array_equal(filled_by, expected)
  np.testing.assert_array_equal(slot.reshape(-1)[~live], slots)
  np.testing.assert_array_equal(filled_by[slot.reshape(-1)[live]], np.flatnonzero(live))


def _weights(experts=5, width=12, hidden=8, tokens=19, choices=3):
  keys = jax.random.split(jax.random.key(0), 5)
  shapes = (
    (tokens, width),
    (tokens, choices),
    (experts, width, hidden),
    (experts, width, hidden),
    (experts, hidden, width),
  )
  return [jax.random.normal(k, s) for k, s in zip(keys, shapes)]


def _dense_mlp(chosen, live, x, gates, w_gate, w_up, w_down):
  """Every token through every expert, then the chosen ones weighed."""
  hidden = jax.nn.silu(jnp.einsum("td,edf->tef", x, w_gate)) * jnp.einsum("td,edf->tef", x, w_up)
  y = jnp.einsum("tef,efd->ted", hidden, w_down)
  weight = jax.nn.one_hot(chosen, len(w_gate)) * (gates * live)[:, :, None]
  return jnp.einsum("ted,tke->td", y, weight)


@partial(jax.jit, static_argnames="f")
def _with_gradients(f, chosen, live, *args):
  """f(chosen, live, *args) and its gradients in args under one fixed random cotangent."""
  out, back = jax.vjp(lambda *args: f(chosen, live, *args), *args)
  return out, *back(jax.random.normal(jax.random.key(1), out.shape).astype(out.dtype))


def _routed(backend):
  def mlp(chosen, live, x, gates, *weights):
    return room.expert_mlp(x, chosen, gates, live, *weights, backend=backend)

  return mlp


ROUTED = {backend: _routed(backend) for backend in ("reference", "blocked")}


@pytest.mark.parametrize("backend", ["reference", "blocked"])
@pytest.mark.parametrize("dead", [0.0, 0.5, 1.0])
def test_expert_mlp_and_its_gradients_equal_the_dense_mixture(backend, dead):
  chosen, live = _routing(3, 19, 3, 5, dead)
  args = _weights()

  dense = _with_gradients(_dense_mlp, chosen, live, *args)
  for got, want in zip(_with_gradients(ROUTED[backend], chosen, live, *args), dense):
    np.testing.assert_allclose(got, want, atol=1e-4)


@pytest.mark.parametrize("tokens", [1, 3])
def test_a_token_alone_reads_only_its_own_experts(tokens):
  chosen, live = _routing(1, tokens, 2, 5, 0.0)
  args = _weights(tokens=tokens, choices=2)
  used = jnp.isin(jnp.arange(5), chosen)[:, None, None]
  poisoned = args[:2] + [jnp.where(used, w, jnp.nan) for w in args[2:]]
  assert not bool(jnp.all(used))
  got = jax.jit(ROUTED["blocked"])(chosen, live, *poisoned)
  np.testing.assert_allclose(got, _dense_mlp(chosen, live, *args), atol=1e-4)


def test_bfloat16_stays_bfloat16_and_close_to_float32():
  chosen, live = _routing(3, 19, 3, 5, 0.2)
  args = _weights()
  small = [a.astype(jnp.bfloat16) for a in args]

  mlp = ROUTED["blocked"]
  want = _with_gradients(mlp, chosen, live, *(a.astype(jnp.float32) for a in small))
  for a, b in zip(_with_gradients(mlp, chosen, live, *small), want):
    assert a.dtype == jnp.bfloat16
    error = jnp.linalg.norm(a.astype(jnp.float32) - b) / jnp.linalg.norm(b)
    assert error < 0.02


def test_tokens_whose_every_choice_is_dead_may_be_nan():
  chosen, live = _routing(3, 19, 3, 5, 0.0)
  live = live.at[4].set(False)
  x, *rest = _weights()

  mlp = ROUTED["blocked"]
  clean = _with_gradients(mlp, chosen, live, x.at[4].set(0), *rest)
  poisoned = _with_gradients(mlp, chosen, live, x.at[4].set(jnp.nan), *rest)
  for a, b in zip(clean, poisoned):
    np.testing.assert_array_equal(a, b)


def test_combine_ignores_nan_in_slots_nobody_reads():
  chosen, live = _routing(0, 9, 2, 4, 0.5)
  plan = room.plan(chosen, live, num_experts=4, alignment=4)
  y = jax.random.normal(jax.random.key(0), (len(plan.assignment_M), 6))
  empty = (plan.source_M == 9)[:, None]
  gates = jnp.ones(chosen.shape)

  def out_and_gradients(y):
    out, back = jax.vjp(lambda y, g: room.combine(y, g, plan), y, gates)
    return out, *back(jnp.ones_like(out))

  for a, b in zip(out_and_gradients(y), out_and_gradients(jnp.where(empty, jnp.nan, y))):
    np.testing.assert_array_equal(a, b)
