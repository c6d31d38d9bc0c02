#!/usr/bin/env bash
# jax and jaxlib 0.10.2 (pypi.org/project/jax), CPU host, python 3.11, 2026-11-30.
#
# One would guess: a Pallas kernel over strips with a border, whose blocks overlap (pl.Element along an axis: the place of
# a block is counted in elements), which is right when it is interpreted, becomes a program of a TPU and of a GPU alike;
# blocks are Pallas' own notion, and not a backend's.
# What happens: for a TPU it lowers, where all axes of the block are Elements and the overlap is along none of the last
# two. For a GPU (lowering_platforms=("cuda",), which needs none) it is refused: "Only Blocked indexing mode is supported
# in Mosaic GPU lowering". A stencil for both has to leave its array in the main memory and cut the strips out itself, or
# copy them first. Without absl-py, which jax does not require, the refusal is another one, that jaxlib has no GPU.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 absl-py==2.5.1
cat >"$work/seen.py" <<'PY'
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

x = jnp.ones((34, 8, 128))


def kernel(x_ref, y_ref):
    y_ref[...] = x_ref[:-2] + x_ref[1:-1] + x_ref[2:]


def sums(x, interpret=False):
    """Of each row and its two neighbours, in four strips of 8 rows, which are read with a border of one."""
    return pl.pallas_call(
        kernel,
        grid=(4,),
        in_specs=[pl.BlockSpec([pl.Element(10), pl.Element(8), pl.Element(128)], lambda i: (8 * i, 0, 0))],
        out_specs=pl.BlockSpec([8, 8, 128], lambda i: (i, 0, 0)),
        out_shape=jax.ShapeDtypeStruct((32, 8, 128), jnp.float32),
        interpret=interpret,
    )(x)


print("interpreted, right:", bool((sums(x, True) == 3).all()))
for platform in ("tpu", "cuda"):
    try:
        jax.jit(sums).trace(x).lower(lowering_platforms=(platform,))
        print(f"{platform}: lowers")
    except NotImplementedError as e:
        print(f"{platform}: {str(e).splitlines()[0]}")
PY
cat >"$work/expected" <<'TXT'
interpreted, right: True
tpu: lowers
cuda: Only Blocked indexing mode is supported in Mosaic GPU lowering.
TXT
JAX_PLATFORMS=cpu "$work/venv/bin/python" "$work/seen.py" 2>/dev/null | tee "$work/seen"
diff "$work/expected" "$work/seen"
