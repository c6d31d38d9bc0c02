#!/usr/bin/env bash
# One run by N processes on this machine, which find each other as hosts do; on CPU, or one a GPU.
#   bash launch/local.sh 2 --config=configs/quickstart.py --workdir=runs/two
#   bash launch/local.sh --gpu 8 --config=configs/geca.py --data.path=DIR --workdir=runs/geca
#   bash launch/local.sh --dry-run 2 ...    only prints what it would run
# PORT=: of the coordinator, a free one if not set. CORES=: that the processes divide, all if not set.
# PYTHON=: that runs them. Each line of output begins with the number of its process. Where one ends with an error the
# others leave (they have GRACE= seconds, 60 if not set), and its exit code is that of the script.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
    echo "usage: bash launch/local.sh [--dry-run] [--gpu] N --config=FILE --workdir=DIR ..." >&2
    exit 2
}
dry='' gpu=''
while :; do
    case "${1:-}" in
    --dry-run) dry=1 ;;
    --gpu) gpu=1 ;;
    *) break ;;
    esac
    shift
done
case "${1:-}" in '' | *[!0-9]* | 0) usage ;; esac
n=$1
shift
python=${PYTHON:-.venv/bin/python}
# Two devices of one process are as fast as two processes: each takes its share of the cores.
cores=${CORES:-$(getconf _NPROCESSORS_ONLN)}
devices=$((cores / n > 8 ? 8 : cores / n > 0 ? cores / n : 1))
port=${PORT:-$("$python" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')}

# What process $1 is, as environment variables.
who() {
    local own="JAX_NUM_CPU_DEVICES=$devices JAX_PLATFORMS=cpu"
    if [ "$gpu" ]; then own="CUDA_VISIBLE_DEVICES=$1"; fi
    echo "JAX_COORDINATOR_ADDRESS=127.0.0.1:$port JAX_NUM_PROCESSES=$n JAX_PROCESS_ID=$1 $own"
}

processes=()
for ((i = 0; i < n; i++)); do
    read -r -a variables < <(who "$i")
    command=(env "${variables[@]}" "$python" -u -m nca_gen.main "$@")
    if [ "$dry" ]; then
        printf -v line ' %q' "${command[@]}"
        echo "${line# }"
        continue
    fi
    "${command[@]}" > >(sed -u "s/^/$i | /") 2>&1 &
    processes+=("$!")
done
if [ "$dry" ]; then exit 0; fi

# All are asked to stop; training saves what it has.
trap 'kill -TERM "${processes[@]}" 2>/dev/null || true' TERM INT

code=0 first='' left=$n deadline=''
while [ "$left" -gt 0 ]; do
    sleep 0.2
    left=0
    for i in "${!processes[@]}"; do
        pid=${processes[$i]}
        if kill -0 "$pid" 2>/dev/null; then
            left=$((left + 1))
            if [ "$deadline" ] && [ "$SECONDS" -ge "$deadline" ]; then kill -KILL "$pid" 2>/dev/null || true; fi
            continue
        fi
        own=0
        wait "$pid" || own=$?
        unset "processes[$i]"
        # Who left because another was lost (75) is not the first cause.
        if [ "$own" -ne 0 ] && { [ "$code" -eq 0 ] || { [ "$code" -eq 75 ] && [ "$own" -ne 75 ]; }; }; then
            code=$own first=$i
        fi
    done
    if [ "$code" -ne 0 ] && [ -z "$deadline" ]; then deadline=$((SECONDS + ${GRACE:-60})); fi
done
if [ "$code" -ne 0 ]; then echo "local: process $first of $n ended with $code" >&2; fi
exit "$code"
