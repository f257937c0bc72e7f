#!/usr/bin/env bash
# Runs a command in this repository's own virtual environment, made on the first call:
#
#   ./launch/local.sh python -m ernie_jax.train --config=experiments/quickstart.py --workdir=runs/quickstart
#   ./launch/local.sh pytest tests/sequence
#
# Installs the package (editable) with the extras the command needs, and again only when setup.py
# changed or an extra is missing. EXTRAS adds more: `EXTRAS=cuda ./launch/local.sh ...` on a GPU
# machine, `EXTRAS=tpu` on a TPU VM. PYTHON chooses the interpreter the environment is made with.
set -euo pipefail

script="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/$(basename "${BASH_SOURCE[0]}")"
cd "$(dirname "$script")/.."
if [ $# -eq 0 ]; then
  echo "usage: ./launch/local.sh COMMAND [ARGUMENT...]" >&2
  exit 2
fi

# The extras COMMAND needs, one a word.
needed="${EXTRAS:-}"
needed="${needed//,/ }"
case "$*" in
  pytest* | ruff* | python\ -m\ pytest* | python\ -m\ ruff*) needed="$needed test parity media" ;;
  python\ -m\ benchmarks*) needed="$needed parity" ;;
  *.mp4* | *.m4v* | *.mov* | *.webm* | *.mkv* | *.avi* | *.wav* | *.flac*) needed="$needed media" ;;
  *evaluate.sound* | *data.espeak*) needed="$needed media" ;;
esac

# What is installed: the first line of the stamp is what it was made from (setup.py, this place),
# the second the extras. It is written last, so a killed installation starts again.
stamp=.venv/stamp
origin="$(cksum <setup.py) $PWD"

extras_of_stamp() {
  if [ -f "$stamp" ]; then sed -n 2p "$stamp"; fi
}

is_ready() {
  [ -f "$stamp" ] && [ "$(sed -n 1p "$stamp")" = "$origin" ] || return 1
  local extra installed
  installed=" $(extras_of_stamp) "
  for extra in $needed; do
    case "$installed" in *" $extra "*) ;; *) return 1 ;; esac
  done
}

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "error: needs Python 3.11 or newer as ${PYTHON:-python3}; set PYTHON to its path" >&2
  return 2
}

install() {
  local extras moved=""
  extras="$(printf '%s\n' $(extras_of_stamp) $needed | sort -u | tr '\n' ' ')"
  extras="${extras#"${extras%%[! ]*}"}"
  extras="${extras% }"
  # Scripts in a virtual environment hold absolute paths, so a moved one is made anew.
  if [ -f "$stamp" ] && ! sed -n 1p "$stamp" | grep -qF " $PWD"; then moved=yes; fi
  rm -f "$stamp"
  if [ -n "$moved" ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    local python
    python="$(find_python)" || return
    "$python" -m venv --clear .venv || return
  fi
  echo "Installing ernie_jax${extras:+[${extras// /,}]} into .venv; this takes some minutes." >&2
  .venv/bin/python -m pip install -q --disable-pip-version-check \
    -e ".${extras:+[${extras// /,}]}" || return
  printf '%s\n%s\n' "$origin" "$extras" >"$stamp.new" && mv "$stamp.new" "$stamp"
}

if ! is_ready; then
  # Of two commands started together, one installs and the other waits for it.
  if command -v flock >/dev/null; then
    exec 9<"$script"
    flock 9
  fi
  is_ready || install || exit
  exec 9<&-
fi

# Huge pages for large buffers: a training step on CPU spends a tenth less time in page faults.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"
# What is compiled once is read back by the next command, and by a run that goes on.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR-$PWD/.cache/jax}"
export VIRTUAL_ENV="$PWD/.venv" PATH="$PWD/.venv/bin:$PATH"
exec "$@"
