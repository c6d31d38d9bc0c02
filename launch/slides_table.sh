#!/usr/bin/env bash
# A cascade of automata beside URCDM and Outpainting, on your slides and after as many minutes of training: one table.
#   bash launch/slides_table.sh SLIDES                    in runs/slides_table; called again, it goes on
#   bash launch/slides_table.sh SLIDES DIR ...            in DIR; further flags go to --mode=tables
#   FORM=brief SIZE=2048 bash launch/slides_table.sh ...  a form of configs/slides_table.py; pixels a side
set -eu
[ $# -gt 0 ] || { echo "usage: bash launch/slides_table.sh SLIDES [DIR [--tables.FIELD=VALUE ...]]" >&2; exit 2; }
absolute() { case $1 in /*) echo "$1" ;; *) echo "$PWD/$1" ;; esac; }
slides=$(absolute "$1")
workdir=$(absolute "${2:-runs/slides_table}")
shift $(($# < 2 ? $# : 2))
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ -n "${PYTHON:-}" ] || bash launch/setup.sh
python=${PYTHON:-.venv/bin/python}
size=${SIZE:-4096}
run() { "$python" -m nca_gen.main "$@"; }
run --config="configs/slides_table.py${FORM:+:$FORM}" --mode=chain --config.data.path="$slides" --workdir="$workdir"
rows=()
for system in automata_stage3 urcdm_mag2_stage3 outpainting_mag2_stage3; do
    # A process of its own, whose memory is that of the picture alone.
    out=$workdir/pictures/${FORM:-full}/${system%%_*}
    run --workdir="$workdir/$system" --mode=generate --config.sample.size="$size,$size" --out="$out"
    drawn=("$out"/generated/*"_${size}x${size}_"*/*.tiff)
    rows+=("${system%%_*}=${drawn[-1]}")
done
generated=$(IFS=, && echo "${rows[*]}")
case ${rows[*]} in *,*) generated="($(printf '"%s",' "${rows[@]}"))" ;; esac # a tuple of Python, whose words may have commas
run --mode=tables --workdir="$workdir/tables" --tables.real="$slides" --tables.halves=false \
    --tables.generated="$generated" --tables.factor=4 --tables.patch=64 --tables.n=1000 --tables.crops=1000 "$@"
