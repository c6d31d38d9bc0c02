#!/usr/bin/env bash
# tifffile 2026.3.3, pillow 13.0.0 (pypi.org), python 3.11, 2026-11-29.
#
# One would guess: a segmentation mask, a boolean array, that one library writes as TIFF is the same mask in another.
# What happens: tifffile writes bool as one bit a pixel and marks it MINISWHITE (TIFF 6.0: 0 is white) without turning the
# bits over, and its own imread hands out bits as they lie, whatever the mark says. Pillow obeys the mark. So True is drawn
# black, and read with Pillow the mask is its own complement: 192 pixels of 256 instead of 64. With uint8 of 0 and 255, or
# with photometric="minisblack", both agree.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check tifffile==2026.3.3 pillow==13.0.0 numpy==2.4.6
cat >"$work/seen.py" <<'PY'
import sys

import numpy as np
import PIL.Image
import tifffile

mask = np.zeros((16, 16), bool)
mask[:4] = True
path = f"{sys.argv[1]}/mask.tif"
cases = {"bool": (mask, {}), "bool, minisblack": (mask, {"photometric": "minisblack"}), "uint8": (mask * np.uint8(255), {})}
for name, (array, options) in cases.items():
    tifffile.imwrite(path, array, **options)
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        mark = tifffile.PHOTOMETRIC(page.photometric).name
    own, other = tifffile.imread(path) > 0, np.asarray(PIL.Image.open(path)) > 0
    print(f"{name}: {mark}, {page.bitspersample} bit; {mask.sum()} written, tifffile {own.sum()}, pillow {other.sum()}")
PY
"$work/venv/bin/python" "$work/seen.py" "$work" | tee "$work/seen"
diff "$work/seen" - <<'EXPECTED'
bool: MINISWHITE, 1 bit; 64 written, tifffile 64, pillow 192
bool, minisblack: MINISBLACK, 1 bit; 64 written, tifffile 64, pillow 64
uint8: MINISBLACK, 8 bit; 64 written, tifffile 64, pillow 64
EXPECTED
