#!/usr/bin/env bash
# Sets up .venv where there is none and runs the demo into runs/demo: train, prune, export, remove, prove, package.
# Run again, it goes on where it was interrupted. Options go to `onnxprune demo`: scripts/demo.sh --quick -o runs/quick
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh

set_up demo
[ $# -gt 0 ] || set -- -o runs/demo
say "onnxprune demo $* --resume"
exec "$venv_python" -m onnxprune demo "$@" --resume
