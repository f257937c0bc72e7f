"""Every mistake on the command line: one line that names the key or file, status 2, no traceback."""

import os
import pathlib
import subprocess
import sys

import pytest

import ernie_jax
from ernie_jax import cli

PROGRAM = """
from absl import flags, logging
from ml_collections import config_flags
from ernie_jax import cli
from ernie_jax.errors import UserError

CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment.")
NUMBER = flags.DEFINE_integer("number", 3, "A number.")
FAIL = flags.DEFINE_enum("fail", None, ["user", "bug", "interrupt"], "How to fail.")

def main(argv):
  if FAIL.value == "user":
    raise UserError("file x.txt\\nis empty")
  if FAIL.value == "bug":
    raise ZeroDivisionError("ours")
  if FAIL.value == "interrupt":
    raise KeyboardInterrupt
  logging.info("chatter")
  logging.warning("trouble")
  config = cli.require(CONFIG, example="experiments/quickstart.py")
  print("depth", config.model.depth, "rate", config.rate, "tie", config.model.tie, argv[1:])
  print(config.sources[0]["path"])

cli.run(main, arguments=1)
"""

CONFIGS = {
  "good.py": """
import ml_collections
from ernie_jax.errors import UserError

def get_config(arg=None):
  if arg == "value":
    raise ValueError("no such size")
  if arg == "user":
    raise UserError("config good.py takes :tiny, not :user")
  if arg == "key":
    return {}["missing"]
  model, sources = {"depth": 4, "tie": True}, ({"path": "here"},)
  return ml_collections.ConfigDict({"model": model, "rate": 0.1, "sources": sources})
""",
  "syntax.py": "def get_config(:\n",
  "imports.py": "import no_such_module_anywhere\n",
  "empty.py": "",
  "nothing.py": "def get_config():\n  pass\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("cli")
  (path / "program.py").write_text(PROGRAM)
  for name, text in CONFIGS.items():
    (path / name).write_text(text)
  return path


def call(folder, line: str) -> subprocess.CompletedProcess:
  command = [sys.executable, "program.py", *line.split()]
  environment = os.environ | {"PYTHONPATH": str(pathlib.Path(ernie_jax.__file__).parents[1])}
  return subprocess.run(
    command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60
  )


@pytest.mark.parametrize(
  ("line", "told"),
  [
    (
      "--config=good.py --config.model.dpeth=8",
      "--config.model.dpeth; did you mean config.model.depth?",
    ),
    ("--config good.py --config.modl.depth 8", "--config.modl.depth; did you mean config.model?"),
    ("--config=good.py --config.model.depth.x=8", "config.model.depth is a value"),
    ("--config=good.py --config.sources[1].path=x", "config.sources has no entry 1"),
    ("--config=good.py --config.model[0]=3", "config.model has no entry 0"),
    ("--config=good.py --config.sources[0].pth=x", "did you mean config.sources[0].path?"),
    ("--config=good.py --config.model.depth=deep", "--config.model.depth=deep: invalid literal"),
    ("--config=good.py --config.model=3", "--config.model=3"),
    ("--config.model.depth=8", "give --config=FILE before it"),
    ("--config=absent.py", "there is no config file 'absent.py'"),
    ("--config=absent.py --config.model.depth=8", "there is no config file 'absent.py'"),
    ("--config=.", "there is no config file '.'"),
    ("--config=good.py:value", "config file good.py, line 7: no such size"),
    ("--config=good.py:user", "config good.py takes :tiny, not :user"),
    ("--config=good.py:key", "config file good.py, line 11: KeyError: 'missing'"),
    ("--config=syntax.py", "config file syntax.py, line 1: syntax error"),
    ("--config=imports.py", "imports.py, line 1: ModuleNotFoundError"),
    ("--config=empty.py", "config file empty.py"),
    ("--config=nothing.py", "config file nothing.py: get_config() returned nothing"),
    ("--verbosity=-2", "missing flag --config; add --config=experiments/quickstart.py"),
    ("--config", "Missing value for flag --config"),
    ("--numbr=1", "Did you mean: number"),
    ("--number=many", "--number=many"),
    ("--config=good.py one two", "unexpected argument 'two'"),
    ("--fail=user", "file x.txt is empty"),
  ],
)
def test_a_mistake_is_told_in_one_line(folder, line, told):
  done = call(folder, line)
  assert done.returncode == 2, done
  assert done.stdout == ""
  assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
  assert told in done.stderr


def test_overrides_and_positional_arguments_reach_main(folder):
  line = "--config=good.py --config.model.depth=8 --noconfig.model.tie --config.rate=2 folder"
  line += " --config.sources[0].path=there"
  done = call(folder, line)
  assert done.returncode == 0
  assert done.stdout == "depth 8 rate 2.0 tie False ['folder']\nthere\n"


def test_library_chatter_is_shown_only_when_asked_for(folder):
  quiet = call(folder, "--config=good.py").stderr
  assert "chatter" not in quiet and "trouble" in quiet
  assert "chatter" in call(folder, "--config=good.py --verbosity=0").stderr


def test_an_interrupt_is_quiet(folder):
  done = call(folder, "--fail=interrupt")
  assert (done.returncode, done.stderr) == (130, "")


def test_a_bug_keeps_its_traceback(folder):
  done = call(folder, "--fail=bug")
  assert done.returncode == 1
  assert "Traceback" in done.stderr and "ZeroDivisionError: ours" in done.stderr


@pytest.mark.parametrize("given", [["--force=a,b"], ["--force", "a,b"], ["-force=a"], []])
def test_a_flag_is_left_out_with_its_value(given):
  others = ["--config=x.py", "--only=a"]
  assert cli.without_flag([*others, *given, "--workdir=runs/x"], "force") == [
    *others, "--workdir=runs/x"
  ]  # fmt: skip
