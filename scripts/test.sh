#!/usr/bin/env bash
# Sets up .venv where there is none and runs the linters and all tests. Options go to pytest: scripts/test.sh -k recipe
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh

set_up test
say "ruff check and ruff format --check"
"$venv_python" -m ruff check . || fail "ruff check found something: $venv_python -m ruff check --fix . mends most of it"
"$venv_python" -m ruff format --check . || fail "some files aren't formatted: run $venv_python -m ruff format ."
say "pytest on 2 processes"
exec "$venv_python" -m pytest -n 2 --dist loadfile "$@"
