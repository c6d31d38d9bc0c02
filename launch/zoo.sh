#!/usr/bin/env bash
# Trains the automata of configs/zoo.py and exports them to nca_gen/zoo/: about 20 minutes of one core.
#   bash launch/zoo.sh             all of them, in runs/zoo; called again, it goes on where it was cut off
#   bash launch/zoo.sh NAME ...    these
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ $# -gt 0 ] || set -- tissue spots
for name in "$@"; do
    case $name in
        tissue) page=configs/zoo.py flags=(--config.sample.n=1) ;;
        spots) page=configs/zoo.py:spots flags=(--export.dtype=float16) ;; # or it would take more than 400 kB
        *) echo "no automaton $name: tissue, spots" >&2 && exit 2 ;;
    esac
    .venv/bin/python -m nca_gen.main --config="$page" --workdir="runs/zoo/$name"
    .venv/bin/python -m nca_gen.main --mode=export --config="$page" --workdir="runs/zoo/$name" \
        --export.path="nca_gen/zoo/$name" "${flags[@]}"
done
