"""Checkpoints come back exactly, are whole or absent, and refuse what does not fit."""

import os
import pathlib
import resource
import signal
import subprocess
import sys
import textwrap

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ernie_jax.errors import UserError
from ernie_jax.train import checkpoint
from ernie_jax.train.checkpoint import Checkpoints

ROOT = pathlib.Path(checkpoint.__file__).parents[2]


@flax.struct.dataclass
class State:
  step: jax.Array
  key: jax.Array
  params: dict
  optimizer: tuple


def make_state(width: int = 4, seed: int = 0) -> State:
  key = jax.random.key(seed)
  params = {
    "embed": {"embedding": jax.random.normal(key, (8, width))},
    "layers": {"scale": jnp.arange(float(width)).astype(jnp.bfloat16)},
    "final_norm": {"scale": jnp.ones(width)},
  }
  optimizer = optax.chain(optax.clip(1.0), optax.adamw(1e-3)).init(params)
  return State(step=jnp.int32(7), key=key, params=params, optimizer=optimizer)


def shapes(state):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)


def assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
    assert x.dtype == y.dtype
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
      x, y = jax.random.key_data(x), jax.random.key_data(y)
    np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def test_state_and_extra_come_back_exactly(tmp_path):
  state, extra = make_state(), {"data": {"next_batch": 3}, "note": "é", "list": [1, 2.5, None, []]}
  with Checkpoints(tmp_path) as saver:
    assert saver.latest_step() is None
    assert saver.save(7, state, extra)
  with Checkpoints(tmp_path) as reader:
    assert reader.latest_step() == 7
    got, got_extra = reader.restore(7, shapes(state))
  assert_same(state, got)
  assert got_extra == extra
  assert jax.random.uniform(got.key) == jax.random.uniform(state.key)


def test_arrays_may_be_donated_as_soon_as_save_returns(tmp_path):
  step = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
  x = jnp.arange(2_000_000.0)
  expected = np.array(x)
  with Checkpoints(tmp_path) as saver:
    saver.save(1, {"x": x}, {})
    for _ in range(3):
      x = step(x)
    got, _ = saver.restore(1, {"x": jax.ShapeDtypeStruct(expected.shape, jnp.float32)})
  np.testing.assert_array_equal(got["x"], expected)


def test_keep_policy_keeps_the_newest_and_the_multiples(tmp_path):
  with Checkpoints(tmp_path, keep_latest=2, keep_every=4) as saver:
    for step in range(1, 11):
      saver.save(step, {"x": jnp.float32(step)}, {})
    saver.wait()
    assert saver.steps() == [4, 8, 9, 10]
    for step in saver.steps():
      got, _ = saver.restore(step, {"x": jax.ShapeDtypeStruct((), jnp.float32)})
      assert got["x"] == step


def test_a_step_is_saved_once(tmp_path):
  with Checkpoints(tmp_path) as saver:
    assert saver.save(1, {"x": jnp.float32(1)}, {"first": True})
    assert not saver.save(1, {"x": jnp.float32(2)}, {"first": False})
    assert checkpoint.load_extra(tmp_path) == {"first": True}


@pytest.mark.parametrize(
  ("change", "told"),
  [
    (
      lambda p: p["embed"].update(embedding=jnp.ones((8, 5))),
      r"embed/embedding.*\[8, 4\], not \[8, 5\]",
    ),
    (lambda p: p.update(head={"kernel": jnp.ones(2)}), "it has no params/head/kernel"),
    (lambda p: p.pop("final_norm"), "params/final_norm/scale is unknown here"),
    (
      lambda p: p["layers"].update(scale=jnp.ones(4)),
      "params/layers/scale is bfloat16, not float32",
    ),
  ],
)
def test_a_checkpoint_of_another_config_is_refused_by_name(tmp_path, change, told):
  with Checkpoints(tmp_path) as saver:
    saver.save(1, {"params": make_state().params}, {})
    other = make_state().params
    change(other)
    with pytest.raises(UserError, match=told) as e:
      saver.restore(1, shapes({"params": other}))
    assert "made by another config" in str(e.value) and "\n" not in str(e.value)


def test_an_absent_step_is_told_with_those_there_are(tmp_path):
  with pytest.raises(UserError, match="there is no checkpoint in"):
    checkpoint.load_params(tmp_path / "nowhere")
  with Checkpoints(tmp_path) as saver:
    saver.save(3, {"x": jnp.ones(2)}, {})
    saver.wait()
    with pytest.raises(UserError, match=r"no checkpoint of step 4 .* there is 3"):
      saver.restore(4, {"x": jnp.ones(2)})


def test_params_load_without_the_programs_tree(tmp_path):
  state = make_state()
  with Checkpoints(tmp_path) as saver:
    saver.save(1, state, {})
  params = checkpoint.load_params(tmp_path)
  assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(params))
  assert_same(state.params, params)
  assert_same(state.params["embed"], checkpoint.load_params(tmp_path, subtree="params/embed"))
  found = checkpoint.metadata(tmp_path)
  assert found["params/layers/scale"].shape == (4,)
  assert found["params/layers/scale"].dtype == jnp.bfloat16
  with pytest.raises(UserError, match="holds no 'weights'"):
    checkpoint.load_params(tmp_path, subtree="weights")


def test_files_beside_the_steps_are_left_alone(tmp_path):
  (tmp_path / "assets").mkdir()
  (tmp_path / "assets" / "tokenizer.model").write_bytes(b"\x00\x01")
  with Checkpoints(tmp_path) as saver:
    saver.save(1, {"x": jnp.ones(2)}, {})
  with Checkpoints(tmp_path) as saver:
    assert saver.steps() == [1]
  assert (tmp_path / "assets" / "tokenizer.model").read_bytes() == b"\x00\x01"


def run_python(code: str, *arguments, devices: int = 1) -> subprocess.CompletedProcess:
  environment = os.environ | {
    "PYTHONPATH": str(ROOT),
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}",
  }
  command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
  return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_a_sharded_checkpoint_restores_on_other_meshes(tmp_path):
  code = """
    import sys
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import NamedSharding, PartitionSpec as P
    from ernie_jax.train.checkpoint import Checkpoints

    x = np.arange(64.0, dtype=np.float32).reshape(8, 8)
    first = jax.make_mesh((8,), ("a",))
    second = jax.make_mesh((2, 4), ("b", "c"))
    key = jax.device_put(jax.random.key(1), NamedSharding(first, P()))
    with Checkpoints(sys.argv[1]) as saver:
      saver.save(1, {"x": jax.device_put(x, NamedSharding(first, P("a"))), "key": key}, {})
      for spec in (P("c", "b"), P(None, "c"), P()):
        sharding = NamedSharding(second, spec)
        like = {
          "x": jax.ShapeDtypeStruct((8, 8), jnp.float32, sharding=sharding),
          "key": jax.ShapeDtypeStruct((), key.dtype, sharding=NamedSharding(second, P())),
        }
        got = saver.restore(1, like)[0]
        assert got["x"].sharding == sharding
        np.testing.assert_array_equal(got["x"], x)
        assert jax.random.uniform(got["key"]) == jax.random.uniform(jax.random.key(1))
    print("done")
  """
  done = run_python(code, tmp_path, devices=8)
  assert done.stdout == "done\n", done.stderr


def test_a_sharded_checkpoint_restores_on_one_device(tmp_path):
  code = """
    import sys
    import jax, jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec as P
    from ernie_jax.train.checkpoint import Checkpoints

    x = jax.device_put(jnp.arange(64.0), NamedSharding(jax.make_mesh((8,), ("a",)), P("a")))
    with Checkpoints(sys.argv[1]) as saver:
      saver.save(1, {"x": x}, {})
  """
  assert run_python(code, tmp_path, devices=8).returncode == 0
  with Checkpoints(tmp_path) as reader:
    got, _ = reader.restore(1, {"x": jax.ShapeDtypeStruct((64,), jnp.float32)})
  np.testing.assert_array_equal(got["x"], np.arange(64.0))


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.1])
def test_a_save_killed_half_way_is_never_seen(tmp_path, delay):
  code = """
    import os, signal, sys, time
    import jax.numpy as jnp
    from ernie_jax.train.checkpoint import Checkpoints

    saver = Checkpoints(sys.argv[1])
    saver.save(1, {"x": jnp.arange(4.0)}, {"next": 1})
    saver.wait()
    saver.save(2, {"x": jnp.arange(20_000_000.0)}, {"next": 2})
    time.sleep(float(sys.argv[2]))
    os.kill(os.getpid(), signal.SIGKILL)
  """
  assert run_python(code, tmp_path, delay).returncode == -signal.SIGKILL
  with Checkpoints(tmp_path) as reader:
    assert reader.steps() == [1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1"]
    got, extra = reader.restore(1, {"x": jax.ShapeDtypeStruct((4,), jnp.float32)})
    assert extra == {"next": 1}
    np.testing.assert_array_equal(got["x"], np.arange(4.0))
    reader.save(2, {"x": jnp.ones(4)}, {})
    reader.wait()
    assert reader.steps() == [1, 2]


def test_a_save_the_disk_cannot_hold_is_told_and_harms_nothing(tmp_path, caplog):
  x = np.random.default_rng(0).standard_normal(500_000)
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  with Checkpoints(tmp_path, keep_latest=1) as saver:
    saver.save(1, {"x": x[:100]}, {"next": 1})
    saver.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
      saver.save(2, {"x": x}, {"next": 2})
      with pytest.raises(UserError, match=f"saving step 2 in {tmp_path} failed"):
        saver.save(3, {"x": x}, {"next": 3})
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert saver.latest_step() == 1
    assert saver.restore(1, {"x": x[:100]})[1] == {"next": 1}
    assert saver.save(4, {"x": x}, {"next": 4})
  assert checkpoint.steps(tmp_path) == [4]
  assert "Traceback" not in caplog.text


def test_close_raises_the_error_of_the_last_save(tmp_path):
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  saver = Checkpoints(tmp_path)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
  try:
    saver.save(1, {"x": np.random.default_rng(0).standard_normal(500_000)}, {})
    with pytest.raises(UserError, match="File too large"):
      saver.close()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_damaged_checkpoint_is_told_by_its_place(tmp_path):
  with Checkpoints(tmp_path) as saver:
    saver.save(1, {"x": jnp.arange(1000.0)}, {})
  for file in (tmp_path / "1").rglob("*"):
    if file.is_file() and "/d/" in str(file):
      file.write_bytes(b"")
  with Checkpoints(tmp_path) as reader, pytest.raises(UserError, match=str(tmp_path)):
    reader.restore(1, {"x": jax.ShapeDtypeStruct((1000,), jnp.float32)})
