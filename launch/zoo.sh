#!/usr/bin/env bash
# Trains the automata of configs/zoo.py and exports them to nca_gen/zoo/: about 20 minutes of one core.
#   bash launch/zoo.sh             all of them, in runs/zoo; called again, it goes on where it was cut off
#   bash launch/zoo.sh NAME ...    these
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ $# -gt 0 ] || set -- tissue spots
for name in "$@"; do
    form=":$name"
    [ "$name" = tissue ] && form=
    .venv/bin/python -m nca_gen.main --config="configs/zoo.py$form" --workdir="runs/zoo/$name"
    dtype=float32
    [ "$name" = spots ] && dtype=float16 # weights lie there twice, and 400 kB is the most that an export may take here
    .venv/bin/python -m nca_gen.main --mode=export --workdir="runs/zoo/$name" --export.path="nca_gen/zoo/$name" \
        --export.dtype="$dtype"
done
