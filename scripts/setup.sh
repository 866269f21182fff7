# Sourced by demo.sh and test.sh. `set_up EXTRA` leaves an environment in .venv with the project and that extra
# installed, and sets $venv_python. What is already there and right is kept, so running it again costs a second.

say() { printf '==> %s\n' "$*"; }
fail() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 2; }

find_python() { # prints the first interpreter that is 3.11 or newer; version managers leave shims that don't run
  local candidate
  for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  return 1
}

create_environment() {
  local python
  python=$(find_python) || fail "no Python 3.11 or newer was found: install one, or name it: PYTHON=/path/to/python3.11 $0"
  "$python" -c 'import venv, ensurepip' 2>/dev/null || fail \
    "$(command -v "$python") has no venv module: install it (on Debian and Ubuntu: apt-get install python3-venv) and run again"
  say "creating .venv with $("$python" --version) ($(command -v "$python"))"
  "$python" -m venv .venv || fail ".venv could not be created in $PWD: see the message above; is the folder writable, the disk full?"
}

check_disk() { # PyTorch's CPU build and the rest take 1.8 GB, the CUDA build 6.3 GB
  local free_mb
  free_mb=$(df -Pm . | awk 'NR == 2 { print $4 }')
  [ "$free_mb" -ge 2500 ] || fail "only $free_mb MB are free in $PWD and the installation needs at least 2500: make room and run again"
}

set_up() {
  local extra=$1 fingerprint stamp installed constraints=constraints.txt
  venv_python=.venv/bin/python
  "$venv_python" -c 'import pip' 2>/dev/null || { check_disk; create_environment; }
  "$venv_python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail \
    ".venv was made with $("$venv_python" --version), and 3.11 or newer is needed: delete .venv and run again"

  stamp=.venv/onnxprune-$extra.stamp
  fingerprint=$({ echo "$PWD"; cat pyproject.toml constraints.txt; } | cksum)
  if [ "$(cat "$stamp" 2>/dev/null)" = "$fingerprint" ] && "$venv_python" -c 'import onnxprune' 2>/dev/null; then
    say "onnxprune[$extra] is installed in .venv already"
    return
  fi

  check_disk
  # A CPU build of PyTorch that somebody chose stays, whatever its version: the index's build brings CUDA libraries.
  installed=$("$venv_python" -c 'from importlib.metadata import version; print(version("torch"))' 2>/dev/null || true)
  case $installed in
    *+cpu)
      constraints=.venv/onnxprune-constraints.txt
      sed "s/^torch==.*/torch==$installed/" constraints.txt >"$constraints"
      say "keeping PyTorch $installed"
      ;;
  esac
  say "installing onnxprune[$extra] into .venv (minutes the first time)"
  "$venv_python" -m pip install --quiet --disable-pip-version-check --editable ".[$extra]" --constraint "$constraints" || fail \
    "the installation failed: pip's message above says why ($(df -Pm . | awk 'NR == 2 { print $4 }') MB are free here); run again when it is mended"
  echo "$fingerprint" >"$stamp"
}
