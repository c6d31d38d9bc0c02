#!/usr/bin/env bash
# jax and jaxlib 0.10.2 (pypi.org/project/jax), CPU, python 3.11, 2026-11-29.
#
# One would guess: an entry of the persistent compilation cache that was cut short (a machine that was taken away while it
# wrote) is written anew by the next process that has to compile the program.
# What happens: entries are written in place, and one that is there is never written again, whatever it holds. So every
# process after that warns, compiles the program anew, and leaves the cut entry as it is: its cache never helps again.
# Processes that share a cache can see it too, while another one writes (jax/_src/lru_cache.py, LRUCache.put).
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2
cat >"$work/once.py" <<'PY'
import sys
import warnings

import jax

jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
x = jax.numpy.zeros(3)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    jax.jit(lambda x: jax.numpy.sin(x) * 2 + 1)(x)
print("warned" if any("Error reading persistent" in str(w.message) for w in caught) else "silent")
PY
{
    "$work/venv/bin/python" "$work/once.py" "$work/cache"
    "$work/venv/bin/python" "$work/once.py" "$work/cache"
    entry=$(ls "$work"/cache/jit__lambda*-cache)
    truncate --size=100 "$entry"
    for _ in 1 2 3; do
        "$work/venv/bin/python" "$work/once.py" "$work/cache"
        stat --format=%s "$entry"
    done
} 2>/dev/null | tee "$work/seen"
diff "$work/seen" - <<'EXPECTED'
silent
silent
warned
100
warned
100
warned
100
EXPECTED
