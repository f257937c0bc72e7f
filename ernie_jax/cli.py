"""The command line shared by every `python -m ernie_jax.*`: flags, configs and one-line errors.

An entry point ends with `if __name__ == "__main__": cli.run(main)`. A mistake of the user's (a
`UserError`, an unknown flag, a misspelled `--config.x.y=1`, a config file that is absent or
refuses its argument) prints one line, `error: ...`, and exits with status 2. Ctrl-C exits with 130
and no traceback. Every other exception is a bug of ours and keeps its traceback.

Gotcha: ml_collections reports these mistakes with whatever exception its internals happen to meet
(AttributeError, KeyError, a whole traceback as the text of a ValueError, or an object that raises
when it is first read), so config files go through a parser of our own that checks first.

Flags that several commands have (workdir, step, member) are defined with `allow_override=True`, so that a
program that imports two command modules, a test or a notebook, may do so.
"""

import difflib
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections
from absl import app, flags, logging
from ml_collections.config_flags import config_flags

from ernie_jax.errors import UserError

USER_ERROR_STATUS = 2
INTERRUPTED_STATUS = 130  # 128 + SIGINT, as a shell reports it.


def run(main: Callable[[list[str]], Any], *, arguments: int = 0) -> None:
  """Parses the flags in `sys.argv`, runs `main(argv)` and exits.

  `argv` holds the program's name and what is not a flag. Library chatter below the level of a
  warning is dropped unless `--verbosity` asks for it.

  Args:
    main: its result is the exit status (None is 0).
    arguments: how many positional arguments (not flags) the command takes at most; a further one
      is an error rather than being ignored.
  """

  def checked_main(argv: list[str]) -> Any:
    if len(argv) > 1 + arguments:
      raise UserError(
        f"unexpected argument {argv[1 + arguments]!r}; flags are given as --name=value"
      )
    return main(argv)

  try:
    app.run(checked_main, flags_parser=_parse_flags)
  except UserError as e:
    print(f"error: {_one_line(e)}", file=sys.stderr)
    sys.exit(USER_ERROR_STATUS)
  except KeyboardInterrupt:
    sys.exit(INTERRUPTED_STATUS)


def require(flag: flags.FlagHolder, *, example: str = "...") -> Any:
  """The value of `flag`, or a `UserError` naming it (with an `example` value) when it was not given."""
  if flag.value is None or flag.value == "":
    raise UserError(f"missing flag --{flag.name}; add --{flag.name}={example}")
  return flag.value


class _ConfigFileParser(config_flags.ConfigFileFlagParser):
  """Loads a config file as ml_collections does, but fails at once and in one line."""

  def parse(self, path: str) -> Any:
    """The config of a file, with the overrides of the command line checked.

    Raises:
      UserError: naming the file, or the key.
    """
    file = path.split(":", 1)[0]
    if not os.path.isfile(file):
      raise UserError(f"--{self.name}: there is no config file {file!r}")
    level = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)  # It warns about what is an error below.
    try:
      config = super().parse(path)
      # A file that could not be read comes back as an object that raises at the first access.
      hasattr(config, "lock")
    except UserError:
      raise
    except Exception as e:
      raise UserError(f"config file {_where(e, file)}: {_root_message(e)}") from e
    finally:
      logging.set_verbosity(level)
    if config is None:
      raise UserError(f"config file {file}: get_config() returned nothing")
    for key in _overrides(self.name):
      _check_key(config, key, name=self.name)
    return config


def without_flag(arguments: Sequence[str], name: str) -> list[str]:
  """Arguments of a command line without this flag, given as `--name=value` or as `--name value`."""
  kept, its_value = [], False
  for argument in arguments:
    flag, equals, _ = argument.partition("=")
    if flag in (f"--{name}", f"-{name}") and not its_value:
      its_value = not equals
    elif its_value:
      its_value = False
    else:
      kept.append(argument)
  return kept


def _parse_flags(argv: list[str]) -> list[str]:
  """Parses absl flags; every mistake becomes a `UserError`."""
  for name in flags.FLAGS:
    flag = flags.FLAGS[name]
    if isinstance(flag.parser, config_flags.ConfigFileFlagParser):
      flag.parser = _ConfigFileParser(flag.parser.name)
  try:
    rest = flags.FLAGS(argv)
  except flags.UnrecognizedFlagError as e:
    name = e.flagname.split(".")[0]
    if "." in e.flagname and name in flags.FLAGS:
      raise UserError(f"--{e.flagname} changes a config: give --{name}=FILE before it") from e
    raise UserError(str(e)) from e
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as e:
    raise UserError(str(e)) from e
  # absl goes to INFO from here on if the flag is still at its default.
  if flags.FLAGS["verbosity"].using_default_value:
    flags.FLAGS.verbosity = logging.WARNING
  return rest


def _overrides(name: str) -> list[str]:
  """The keys that `--NAME.key=...` (or `--noNAME.key`) arguments on the command line change."""
  pattern = re.compile(rf"--?(?:no)?{re.escape(name)}\.([^=]+)")
  return [m.group(1) for m in map(pattern.match, sys.argv[1:]) if m]


def _check_key(config: Any, key: str, *, name: str) -> None:
  """Checks that the dotted `key` exists in `config`; entries of lists are written `key[0]`."""
  path = name
  for part in re.sub(r"\[(\d+)\]", r".[\1]", key).split("."):
    if index := re.fullmatch(r"\[(\d+)\]", part):
      if not isinstance(config, (list, tuple)) or int(index[1]) >= len(config):
        raise UserError(f"unknown config key --{name}.{key}: {path} has no entry {index[1]}")
      path, config = f"{path}{part}", config[int(index[1])]
      continue
    if not isinstance(config, (Mapping, ml_collections.ConfigDict)):
      raise UserError(f"unknown config key --{name}.{key}: {path} is a value, not a group of keys")
    if part not in config:
      near = difflib.get_close_matches(part, list(config), n=1)
      hint = f"did you mean {path}.{near[0]}?" if near else f"known: {', '.join(sorted(config))}"
      raise UserError(f"unknown config key --{name}.{key}; {hint}")
    path, config = f"{path}.{part}", config[part]


def _where(error: BaseException, file: str) -> str:
  """`FILE, line N` of the deepest frame of `error`, or of what caused it, that lies in `file`."""
  line = None
  while error is not None:
    if isinstance(error, SyntaxError) and error.lineno:
      return f"{error.filename}, line {error.lineno}"
    for frame in traceback.extract_tb(error.__traceback__):
      if os.path.basename(frame.filename) == os.path.basename(file):
        line = frame.lineno
    error = error.__cause__ or error.__context__
  return f"{file}, line {line}" if line else file


def _root_message(error: BaseException) -> str:
  """The message of the first exception of the chain, told with its type where that says more."""
  while error.__cause__ or error.__context__:
    error = error.__cause__ or error.__context__
  if isinstance(error, SyntaxError):
    return f"syntax error: {error.msg}"
  if isinstance(error, (ValueError, OSError)):
    return str(error)
  return f"{type(error).__name__}: {error}"


def _one_line(error: BaseException) -> str:
  return " ".join(str(error).split())
