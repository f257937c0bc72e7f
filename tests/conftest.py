"""What several rooms' tests share: eight simulated devices, a small corpus and a tokenizer for it."""

import os
import pathlib
import shutil

# Read when jax is first imported, so it must be set before any of our modules is.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

from ernie_jax.sharding.mesh import compile_quickly, simulate_devices
from ernie_jax.text import files
from ernie_jax.text.tokenizer import Tokenizer, train_tokenizer

# Most programs of tests run once or a few times, so time spent optimising them is lost.
compile_quickly()
# For the meshes. An option, not XLA_FLAGS, so that programs which tests start see one device.
simulate_devices(8)


@pytest.fixture(scope="module", autouse=True)
def _compiled_programs_go_with_their_file():
  """Nothing compiled outlives its test file: all of them together take more than 8 GB."""
  yield
  jax.clear_caches()


@pytest.fixture(scope="session")
def corpus_dir(tmp_path_factory) -> pathlib.Path:
  """A directory of forty small files of Python's standard library, in two folders."""
  root = tmp_path_factory.mktemp("corpus")
  (root / "more").mkdir()
  small = [f for f in files.find() if 500 < pathlib.Path(f.path).stat().st_size < 12_000]
  for i, file in enumerate(small[:40]):
    name = f"{i:02d}_{pathlib.Path(file.path).name}"
    shutil.copyfile(file.path, (root / "more" if i % 3 == 0 else root) / name)
  return root


@pytest.fixture(scope="session")
def tokenizer(corpus_dir) -> Tokenizer:
  """640 ids, trained on `corpus_dir`."""
  texts = (files.read(f) for f in files.find(str(corpus_dir)))
  return train_tokenizer((t for t in texts if t), vocab_size=640)
