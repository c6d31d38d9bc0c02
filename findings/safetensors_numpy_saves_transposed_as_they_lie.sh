#!/usr/bin/env bash
# safetensors 0.8.0 and 0.7.0 (pypi.org/project/safetensors), numpy 2.3.5, python 3.11, 2026-11-30.
#
# One would guess: what safetensors.numpy saves comes back equal, as it does up to 0.7.0. The kernel of a convolution is
# transposed on its way from PyTorch's layout (OIHW) to that of flax (HWIO), and in numpy that is a view.
# What happens in 0.8.0: the bytes of a view are written in the order in which they lie in memory, under the shape of the
# view. The file is valid and its shapes are right, nothing warns, and the values are in other places: of transposed
# arrays, of arrays in Fortran's order, and of every second column. Made contiguous (numpy.ascontiguousarray) they are
# kept. jax arrays, saved by safetensors.flax, are not concerned (safetensors/numpy.py).
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/seen.py" <<'PY'
import sys

import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

oihw = np.arange(2 * 3 * 3 * 3, dtype=np.float32).reshape(2, 3, 3, 3)
arrays = {
    "as it lies": oihw,
    "HWIO": oihw.transpose(2, 3, 1, 0),
    "HWIO, contiguous": np.ascontiguousarray(oihw.transpose(2, 3, 1, 0)),
    "Fortran's order": np.asfortranarray(oihw),
    "every second column": oihw[..., ::2],
}
save_file(arrays, sys.argv[1])
found = load_file(sys.argv[1])
for name, x in arrays.items():
    same, values = found[name].shape == x.shape, np.array_equal(found[name], x)
    print(f"{safetensors.__version__} {name}: shape kept {same}, values kept {values}")
PY
for version in 0.7.0 0.8.0; do
    python3 -m venv "$work/$version"
    "$work/$version/bin/pip" install --quiet --disable-pip-version-check "safetensors==$version" numpy==2.3.5
    "$work/$version/bin/python" "$work/seen.py" "$work/$version.safetensors"
done | tee "$work/seen"
diff "$work/seen" - <<'EXPECTED'
0.7.0 as it lies: shape kept True, values kept True
0.7.0 HWIO: shape kept True, values kept True
0.7.0 HWIO, contiguous: shape kept True, values kept True
0.7.0 Fortran's order: shape kept True, values kept True
0.7.0 every second column: shape kept True, values kept True
0.8.0 as it lies: shape kept True, values kept True
0.8.0 HWIO: shape kept True, values kept False
0.8.0 HWIO, contiguous: shape kept True, values kept True
0.8.0 Fortran's order: shape kept True, values kept False
0.8.0 every second column: shape kept True, values kept False
EXPECTED
