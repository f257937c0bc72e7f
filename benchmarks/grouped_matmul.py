"""How fast are the routed experts beside a dense MLP of the same FLOPs?

`python -m benchmarks.grouped_matmul [--json=PATH]` prints, for every back end of this platform, milliseconds
forward and forward + backward (dispatch included), and the share of the dense MLP's rate. Timings interleave
the programs and take medians, so a noisy machine slows all of them alike. The dense MLP is SwiGLU on the same
tokens with hidden width K * F.

T tokens, K choices, E experts, D model width, F expert width.
"""

import functools
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from ernie_jax.backbone.dispatch import combine, expert_mlp, gather, plan

T, K, E, D, F = 4096, 4, 64, 256, 128

FLAGS = flags.FLAGS
flags.DEFINE_string("json", None, "Also write the measurements to this file.")
flags.DEFINE_integer("repeats", 15, "Timed runs of every program.")
flags.DEFINE_multi_string("backend", [], "Back ends to time; default: what this platform runs.")


def _dense(x, w_gate, w_up, w_down):
  return (jax.nn.silu(x @ w_gate) * (x @ w_up)) @ w_down


def _problem():
  """Tokens and a random routing without repeated experts, as a balanced router gives."""
  keys = jax.random.split(jax.random.key(0), 9)
  normal = lambda key, *shape: jax.random.normal(key, shape) / 16
  return {
    "x": normal(keys[0], T, D),
    "gates": jax.random.uniform(keys[1], (T, K)),
    "experts": jax.lax.top_k(jax.random.normal(keys[2], (T, E)), K)[1],
    "live": jnp.ones((T, K), bool),
    "routed": (normal(keys[3], E, D, F), normal(keys[4], E, D, F), normal(keys[5], E, F, D)),
    "dense": (normal(keys[6], D, K * F), normal(keys[7], D, K * F), normal(keys[8], K * F, D)),
  }


def _with_backward(f, *args):
  """A compiled call of f(*args) and its gradients in every argument."""

  @jax.jit
  def run(*args):
    out, back = jax.vjp(f, *args)
    return out, back(jnp.ones_like(out))

  return lambda: run(*args)


def _forward(f, *args):
  run = jax.jit(f)
  return lambda: run(*args)


def _programs(backends) -> dict:
  p = _problem()
  experts, live = p["experts"], p["live"]
  dispatch = jax.jit(functools.partial(plan, num_experts=E))(experts, live)
  y_MD = gather(p["x"], dispatch)
  programs = {
    "dense forward": _forward(_dense, p["x"], *p["dense"]),
    "dense forward+backward": _with_backward(_dense, p["x"], *p["dense"]),
    "plan": _forward(functools.partial(plan, num_experts=E), experts, live),
    "gather": _forward(gather, p["x"], dispatch),
    "combine": _forward(combine, y_MD, p["gates"], dispatch),
  }
  for backend in backends:

    def routed(x, gates, experts, live, weights, backend=backend):
      return expert_mlp(x, experts, gates, live, *weights, backend=backend)

    @jax.jit
    def routed_backward(x, gates, experts, live, weights, routed=routed):
      call = lambda x, gates, weights: routed(x, gates, experts, live, weights)
      out, back = jax.vjp(call, x, gates, weights)
      return out, back(jnp.ones_like(out))

    args = (p["x"], p["gates"], experts, live, p["routed"])
    programs[f"{backend} forward"] = _forward(routed, *args)
    programs[f"{backend} forward+backward"] = lambda run=routed_backward, args=args: run(*args)
  return programs


def measure(programs: dict, repeats: int) -> dict[str, float]:
  """Median milliseconds of every program, their runs interleaved."""
  for run in programs.values():
    jax.block_until_ready(run())
  times = {name: [] for name in programs}
  for _ in range(repeats):
    for name, run in programs.items():
      start = time.perf_counter()
      jax.block_until_ready(run())
      times[name].append(time.perf_counter() - start)
  return {name: 1e3 * float(np.median(t)) for name, t in times.items()}


def main(_):
  platform = jax.default_backend()
  backends = FLAGS.backend or {"tpu": ["megablox"], "gpu": ["ragged", "blocked"]}.get(
    platform, ["blocked"]
  )
  ms = measure(_programs(backends), FLAGS.repeats)
  print(f"{T} tokens, {E} experts, top-{K}, width {D}, expert width {F}, on {platform}")
  print(f"{'':10s} {'forward':>10s} {'fwd + bwd':>10s}   share of the dense rate")
  report = {"platform": platform, "milliseconds": ms, "share_of_dense_rate": {}}
  for name in ["dense", *backends]:
    one, both = ms[f"{name} forward"], ms[f"{name} forward+backward"]
    shares = ms["dense forward"] / one, ms["dense forward+backward"] / both
    report["share_of_dense_rate"][name] = {"forward": shares[0], "forward+backward": shares[1]}
    print(f"{name:10s} {one:7.1f} ms {both:7.1f} ms   {shares[0]:.0%} / {shares[1]:.0%}")
  for name in ("plan", "gather", "combine"):
    print(f"{name:10s} {ms[name]:7.1f} ms")
  if FLAGS.json:
    with open(FLAGS.json, "w") as f:
      json.dump(report, f, indent=2)


if __name__ == "__main__":
  app.run(main)
