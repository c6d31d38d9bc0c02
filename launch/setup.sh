#!/usr/bin/env bash
# Makes .venv and installs the pinned requirements.txt into it; does nothing where that is done already.
#   bash launch/setup.sh
#   PYTHON=/path/to/python3.12 bash launch/setup.sh    with a certain Python (3.11 or 3.12)
#   ACCELERATOR=cuda13 bash launch/setup.sh            and what jax needs for it: cuda12, cuda13 or tpu, pinned as well;
#                                                      cpu is without. Where it is not said, .venv is for what it was.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."

accelerator=${ACCELERATOR:-$(cat .venv/accelerator 2>/dev/null || echo cpu)}
case $accelerator in
cpu) locks=(requirements.txt) ;;
cuda12 | cuda13 | tpu) locks=(requirements.txt "launch/$accelerator.txt") ;;
*)
    echo "error: ACCELERATOR=$accelerator is none of: cpu cuda12 cuda13 tpu" >&2
    exit 2
    ;;
esac

# What .venv was made of. Written last, so an interrupted installation is never taken for a whole one.
made_of() { "$1" -VV && cat "${locks[@]}"; }
if made_of "${PYTHON:-.venv/bin/python}" 2>/dev/null | cmp -s - .venv/installed && .venv/bin/python -c '' 2>/dev/null; then
    echo "setup: .venv is up to date"
    exit 0
fi

# Somebody at a terminal sees progress, a log does not.
quiet=--quiet
if [ -t 2 ]; then quiet=; fi
if command -v uv >/dev/null; then
    needs="sys, venv"
    install() {
        uv venv $quiet --clear --no-python-downloads --python "$(command -v "$1")" .venv
        uv pip install $quiet --python .venv/bin/python "${locks[@]/#/--requirement=}"
    }
else
    needs="sys, venv, ensurepip"
    install() {
        "$1" -m venv --clear .venv
        # The locks are whole, and what is imported is compiled when it is, as uv does it.
        .venv/bin/python -m pip install $quiet --disable-pip-version-check --no-deps --no-compile "${locks[@]/#/--requirement=}"
    }
fi

# A name on the PATH may be a stub that fails, and a system's Python may lack what makes an environment.
usable() { "$1" -c "import $needs; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))" >/dev/null 2>&1; }

if [ -n "${PYTHON:-}" ]; then set -- "$PYTHON"; else set -- python3.12 python3.11 python3 python; fi
for python; do
    if usable "$python"; then
        echo "setup: making .venv with $("$python" -V); the installation takes seconds with uv, minutes with pip"
        install "$python"
        echo "$accelerator" >.venv/accelerator
        made_of .venv/bin/python >.venv/installed
        echo "setup: done"
        exit 0
    fi
done
echo "error: no Python 3.11 or 3.12 that can make an environment ($needs) among: $*." \
    "Install one, or name it: PYTHON=/path/to/python3.12 bash launch/setup.sh" >&2
exit 2
