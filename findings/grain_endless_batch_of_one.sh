#!/usr/bin/env bash
# grain 0.2.18 (pypi.org/project/grain), python 3.11, 2026-11-28.
#
# One would guess: an endless dataset can be cut into batches of any size, also of one.
# What happens: MapDataset.repeat() stands for "endless" by a length of sys.maxsize. batch(n) divides that length as a
# float, which rounds 2^63 - 1 up to 2^63; for n = 1 the result no longer fits where len() wants it, so len() and every
# slice (how one resumes at a step, or takes the share of a process) raise OverflowError. From n = 2 on all is well, and so
# it is for n = 1 with a number of repetitions, such as repeat(2**40).
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check grain==0.2.18
cat >"$work/seen.py" <<'PY'
import grain

for batch, times in ((1, None), (2, None), (1, 2**40)):
    data = grain.MapDataset.range(10).repeat(times).batch(batch)
    try:
        print(batch, times, "first of a slice:", data[3:][0].tolist())
    except OverflowError as error:
        print(batch, times, "OverflowError:", error)
PY
"$work/venv/bin/python" "$work/seen.py" | tee "$work/seen"
diff "$work/seen" - <<'EXPECTED'
1 None OverflowError: cannot fit 'int' into an index-sized integer
2 None first of a slice: [6, 7]
1 1099511627776 first of a slice: [3]
EXPECTED
