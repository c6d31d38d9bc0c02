#!/usr/bin/env bash
# grain 0.2.18 (pypi.org/project/grain), python 3.11, 2026-12-01.
#
# One would guess: worker processes are a matter of speed. With a seed the batches of a run are the same whatever their
# number, as they are for the number of threads; so a run that was cut off on a machine of 16 cores goes on on one of 8.
# What happens: mp_prefetch deals the elements out, a slice to each worker, before the steps that stand ahead of it in the
# chain. Batches made ahead of it are others for another number of workers, and each worker drops what is left over: of
# 12 elements in batches of 4, which are three, two workers give two and four give none. A position (get_state) is that
# of so many workers: with another number, none among them, set_state or the first element fails with IndexError or
# KeyError, and says nothing of workers. Batches made behind it, by the process itself, are the same for any number.
# (A script that absl does not start parses its flags first: mp_prefetch reads one.)
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check grain==0.2.18
cat >"$work/seen.py" <<'PY'
import sys

import grain
from absl import flags


def by(workers, data):
    return data.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers)) if workers else data


def batches(workers, behind=False):
    data = grain.MapDataset.range(12).to_iter_dataset()
    batch = lambda some: some.batch(4, drop_remainder=True)
    return batch(by(workers, data)) if behind else by(workers, batch(data))


def rest(workers, position):
    some = iter(by(workers, grain.MapDataset.range(12).to_iter_dataset()))
    try:
        some.set_state(position)
        return [int(element) for element in some]
    except (IndexError, KeyError) as error:
        return type(error).__name__


if __name__ == "__main__":
    flags.FLAGS(sys.argv[:1])
    for workers in (0, 2, 4):
        print("batches of", workers, "workers:", [batch.tolist() for batch in batches(workers)])
        print("made behind them:", [batch.tolist() for batch in batches(workers, behind=True)])
    for workers in (0, 2):
        some = iter(by(workers, grain.MapDataset.range(12).to_iter_dataset()))
        for _ in range(5):
            next(some)
        position = some.get_state()
        for other in (0, 2, 4):
            print("after 5 elements of", workers, "workers,", other, "go on with:", rest(other, position))
PY
"$work/venv/bin/python" "$work/seen.py" | tee "$work/seen"
diff "$work/seen" - <<'EXPECTED'
batches of 0 workers: [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
made behind them: [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
batches of 2 workers: [[0, 2, 4, 6], [1, 3, 5, 7]]
made behind them: [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
batches of 4 workers: []
made behind them: [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
after 5 elements of 0 workers, 0 go on with: [5, 6, 7, 8, 9, 10, 11]
after 5 elements of 0 workers, 2 go on with: KeyError
after 5 elements of 0 workers, 4 go on with: KeyError
after 5 elements of 2 workers, 0 go on with: KeyError
after 5 elements of 2 workers, 2 go on with: [5, 6, 7, 8, 9, 10, 11]
after 5 elements of 2 workers, 4 go on with: IndexError
EXPECTED
