#!/usr/bin/env bash
# orbax-checkpoint 0.12.8, jax 0.10.2 (pypi.org), python 3.11, 2026-11-29.
#
# One would guess: ocp.PLACEHOLDER, which stands for a leaf that is not to be read, works wherever a tree to restore is
# given, so also in StandardRestore, the arguments of what StandardSave has written.
# What happens: PLACEHOLDER is Python's Ellipsis, and StandardRestore refuses it as an unsupported type. The same folder is
# read in part by the other handler, PyTreeCheckpointHandler, which takes PLACEHOLDER in the tree and in restore_args alike.
# Whoever wants the averaged weights alone, a quarter of an Adam state, has to know both.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check orbax-checkpoint==0.12.8 jax==0.10.2 jaxlib==0.10.2
cat >"$work/seen.py" <<'PY'
import sys
import warnings

warnings.simplefilter("ignore")
import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

state = {"average": jnp.arange(3.0), "moments": jnp.arange(3.0)}
with ocp.StandardCheckpointer() as saver:
    saver.save(f"{sys.argv[1]}/state", state)
there = jax.sharding.SingleDeviceSharding(jax.devices()[0])
wanted = {"average": jax.ShapeDtypeStruct((3,), jnp.float32, sharding=there), "moments": ocp.PLACEHOLDER}
how = {"average": ocp.ArrayRestoreArgs(dtype=jnp.float32, sharding=there), "moments": ocp.PLACEHOLDER}
ways = {
    "standard": (ocp.StandardCheckpointHandler, ocp.args.StandardRestore(wanted)),
    "pytree": (ocp.PyTreeCheckpointHandler, ocp.args.PyTreeRestore(wanted, restore_args=how)),
}
for name, (handler, args) in ways.items():
    with ocp.Checkpointer(handler()) as reader:
        try:
            got = reader.restore(f"{sys.argv[1]}/state", args=args)
            print(f"{name}:", got["average"].tolist(), got["moments"])
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {str(error).splitlines()[0][:40].rstrip()}")
PY
JAX_PLATFORMS=cpu "$work/venv/bin/python" "$work/seen.py" "$work" | tee "$work/seen"
diff "$work/seen" - <<'EXPECTED'
standard: ValueError: Unsupported type: <class 'ellipsis'> for
pytree: [0.0, 1.0, 2.0] Ellipsis
EXPECTED
