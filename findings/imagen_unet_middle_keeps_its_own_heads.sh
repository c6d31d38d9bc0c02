#!/usr/bin/env bash
# imagen-pytorch 1.18.5, torch 2.14.1 (pypi.org), python 3.11, 2026-11-29.
#
# One would guess: Unet(attn_heads=2, attn_dim_head=16) has attention of 2 heads of 16 wherever it attends, as its
# arguments say and as its levels do.
# What happens: the two cross-attentions in the middle of the U-Net are built without these arguments and keep 8 heads of
# 64, whatever is asked for; the self-attention between them follows. A port that gives all attentions the same heads loads
# no such weights, and a count of parameters by the arguments is wrong; with the default of 8 and 64 nobody notices.
# (transformers' T5 config is put in by hand, since importing the package asks a server for it.)
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 imagen-pytorch==1.18.5
cat >"$work/seen.py" <<'PY'
import warnings
from unittest import mock

warnings.simplefilter("ignore")
import transformers

with mock.patch.object(transformers.T5Config, "from_pretrained", return_value=transformers.T5Config(d_model=768)):
    from imagen_pytorch import Unet
unet = Unet(dim=16, dim_mults=(1, 2), layer_attns=True, cond_on_text=False, attn_heads=2, attn_dim_head=16)
for name, weight in unet.named_parameters():
    if name.endswith("to_q.weight"):
        where = "middle" if name.startswith("mid_") else "levels"
        print(where, "cross" if "cross" in name else "self", weight.shape[0])
PY
TRANSFORMERS_OFFLINE=1 "$work/venv/bin/python" "$work/seen.py" 2>/dev/null | grep -v base | sort -u | tee "$work/seen"
diff "$work/seen" - <<'EXPECTED'
levels cross 32
levels self 32
middle cross 512
middle self 32
EXPECTED
