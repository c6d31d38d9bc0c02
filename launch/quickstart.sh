#!/usr/bin/env bash
# From nothing to pictures: trains a cascade of two small automata on a real immunohistochemistry field, paints a large
# picture with it and scores that beside the one of a single automaton (zoo:tissue).
#   bash launch/quickstart.sh             in runs/quickstart; called again, it goes on where it was cut off
#   bash launch/quickstart.sh DIR ...     in DIR; further flags go to nca_gen.main
set -eu
workdir=runs/quickstart
if [ $# -gt 0 ]; then
    case $1 in /*) workdir=$1 ;; *) workdir=$PWD/$1 ;; esac
    shift
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash launch/setup.sh
.venv/bin/python -m nca_gen.main --config=configs/nca_cascade.py:quickstart --mode=chain --workdir="$workdir" "$@"
# Where it was cut off between the last step and the page.
{ [ -f "$workdir/stage2/report.html" ] && compgen -G "$workdir/stage2/eval/*/structure.json" >/dev/null; } ||
    .venv/bin/python -m nca_gen.main --mode=evaluate --workdir="$workdir/stage2"
echo "report: $(cd "$workdir" && pwd)/stage2/report.html"
