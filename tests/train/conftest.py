"""One tiny experiment on a small corpus, run by the real command, shared by the tests of this room."""

import contextlib
import os
import pathlib
import resource
import subprocess
import sys

import pytest

import ernie_jax

ROOT = pathlib.Path(ernie_jax.__file__).parents[1]
WITHOUT_TORCH = pathlib.Path(__file__).parent / "without_torch"

# As much as possible of what must resume exactly: elastic draws, BPE-dropout, a batch ramp.
CONFIG = """
from ernie_jax.train.experiment import default_config, make_tiny

def get_config():
  config = default_config()
  make_tiny(config)
  config.model.update(vocab_size=640, depth=2, width=16, head_dim=8)
  config.elastic.members = ("1x2x1",)
  config.text.tokenizer = {tokenizer!r}
  config.data.sources = ({{"path": {corpus!r}, "validation_percent": 20.0}},)
  config.data.update(data_dir={data_dir!r}, bpe_dropout=0.1, row_length=32, rows_per_batch=4)
  config.train.update(steps=20, log_every=1, checkpoint_every=5, evaluate_every=10)
  config.train.ramp.update(start=1, end=2, steps=8)
  config.mesh.data = 1
  config.evaluation.rows = 8
  return config
"""


class Command:
  """Runs programs of this repository as a user does, with compilations shared by all of them.

  Without PyTorch, as the package installs: TensorBoard's writer imports it where it is, for seconds a program.
  """

  def __init__(self, config: pathlib.Path):
    self.config = config
    cache = ROOT / ".cache" / "jax"
    self.environment = {
      **os.environ,
      "PYTHONPATH": os.pathsep.join([str(WITHOUT_TORCH), str(ROOT)]),
      "JAX_PLATFORMS": "cpu",
      "JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR", str(cache)),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }

  def run(self, *arguments) -> subprocess.CompletedProcess:
    """`python ARGUMENTS`, with its output as text."""
    return subprocess.run(
      [sys.executable, *map(str, arguments)], env=self.environment, cwd=ROOT,
      capture_output=True, text=True, timeout=300,
    )  # fmt: skip

  def train(self, workdir, *arguments, program=("-m", "ernie_jax.train")):
    """The training command on the tiny experiment."""
    flags = [f"--config={self.config}", f"--workdir={workdir}", *arguments]
    return self.run(*program, *flags)

  def interrupt(self, what: str, step: int, workdir) -> subprocess.CompletedProcess:
    """The training command, interrupted by itself as `interrupt.py` says."""
    program = (ROOT / "tests" / "train" / "interrupt.py", what, step)
    return self.train(workdir, program=program)


@pytest.fixture
def small_files():
  """A context in which no file of this process may grow past some bytes, as on a full disk."""

  @contextlib.contextmanager
  def limit(size: int):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
      yield
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

  return limit


@pytest.fixture(scope="session")
def config_file(corpus_dir, tokenizer, tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("experiment")
  tokenizer.save(folder / "tokenizer.model")
  values = {
    "corpus": str(corpus_dir),
    "data_dir": str(folder / "data"),
    "tokenizer": str(folder / "tokenizer.model"),
  }
  (folder / "config.py").write_text(CONFIG.format(**values))
  return folder / "config.py"


@pytest.fixture(scope="session")
def command(config_file) -> Command:
  return Command(config_file)


@pytest.fixture(scope="session")
def finished(command, tmp_path_factory) -> pathlib.Path:
  """The workdir of a run that nothing interrupted. Copy it before changing it."""
  workdir = tmp_path_factory.mktemp("finished") / "run"
  done = command.train(workdir)
  assert done.returncode == 0, done.stderr
  return workdir
