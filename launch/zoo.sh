#!/usr/bin/env bash
# Trains the automata of configs/zoo.py and exports them to nca_gen/zoo/: about 20 minutes of one core.
#   bash launch/zoo.sh             all of them, in runs/zoo; called again, it goes on where it was cut off
#   bash launch/zoo.sh NAME ...    these; "page" is launch/tissue.html, made of the tissue that lies in the zoo
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash launch/setup.sh
[ $# -gt 0 ] || set -- tissue spots page
for name in "$@"; do
    case $name in
        tissue) page=configs/zoo.py flags=(--config.sample.n=1) ;;
        spots) page=configs/zoo.py:spots flags=(--export.dtype=float16) ;; # or it would take more than 400 kB
        page)
            .venv/bin/python -m nca_gen.main --mode=export --workdir=zoo:tissue --export.path=runs/zoo/page \
                --export.name=tissue --export.size=96,96 --export.html
            cp runs/zoo/page/grow.html launch/tissue.html
            continue
            ;;
        *) echo "no automaton $name: tissue, spots, page" >&2 && exit 2 ;;
    esac
    .venv/bin/python -m nca_gen.main --config="$page" --workdir="runs/zoo/$name"
    .venv/bin/python -m nca_gen.main --mode=export --config="$page" --workdir="runs/zoo/$name" \
        --export.path="nca_gen/zoo/$name" "${flags[@]}"
done
