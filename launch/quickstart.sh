#!/usr/bin/env bash
# From nothing to pictures: trains a small Diff-NCA on a real immunohistochemistry field, samples it and scores it.
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
.venv/bin/python -m nca_gen.main --config=configs/quickstart.py --workdir="$workdir" "$@"
echo "report: $(cd "$workdir" && pwd)/report.html"
