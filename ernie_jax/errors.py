"""The one exception a user is meant to see."""


class UserError(Exception):
  """A mistake in the user's input, told in one line that names the key, file or flag to change.

  Entry points print it as `error: MESSAGE` and exit with status 2 (see `ernie_jax.cli`); a library
  caller catches it like any exception.
  """
