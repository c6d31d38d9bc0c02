#!/usr/bin/env bash
# The gate: lint, format, types, shell scripts, tests with warnings as errors; the same on a laptop and in CI. Arguments
# go to pytest:
#   bash launch/test.sh
#   bash launch/test.sh -m "not slow"
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset PYTHONDONTWRITEBYTECODE # tests start a hundred processes: what they import is compiled once
bash launch/setup.sh
.venv/bin/python -m ruff check .
.venv/bin/python -m ruff format --check .
.venv/bin/python launch/typecheck.py
.venv/bin/shellcheck launch/*.sh findings/*.sh .ci/run
# One process more than there are cores: some tests wait for the processes that they start. Few of the fast part do, and
# every process imports all of them.
cores=$(getconf _NPROCESSORS_ONLN)
workers=$((cores < 4 ? cores + 1 : 4))
if [[ "$*" = *"not slow"* ]]; then workers=$((cores < 4 ? cores : 4)); fi
# In the order of tests/conftest.py: by itself xdist begins with the files of most tests, and those that take longest,
# which have few, would come last, one process working while the others wait.
exec .venv/bin/python -m pytest --numprocesses="$workers" \
    --dist=loadfile --no-loadscope-reorder --durations=20 "$@"
