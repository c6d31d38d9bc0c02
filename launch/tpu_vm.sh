#!/usr/bin/env bash
# A run on a Cloud TPU slice of any number of hosts, by a queued resource: waits for it, installs on all its workers,
# runs on all, and where the slice was preempted gets another and goes on.
#   TPU=nca ZONE=us-central1-a TYPE=v5litepod-16 bash launch/tpu_vm.sh --config=configs/geca.py --workdir=DIR
#   bash launch/tpu_vm.sh --dry-run ...    only prints what it would run, once through
# VERSION=: of the software of the machines. SPOT=: --spot, or empty for machines that are not preempted.
# TRIES=: how many slices it gets, 20 if not set. The workdir is a place that outlives the slice and that all workers see.
# The project is that of `gcloud config`. At the end the slice is deleted.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tpu=${TPU:-nca} zone=${ZONE:-us-central1-a} type=${TYPE:-v5litepod-16} version=${VERSION:-v2-alpha-tpuv5-lite}
spot=${SPOT---spot}
dry=''
if [ "${1:-}" = --dry-run ]; then dry=1 && shift; fi

run() {
    if [ -z "$dry" ]; then "$@"; else
        printf -v line ' %q' "$@"
        echo "${line# }"
    fi
}
queue() { run gcloud compute tpus queued-resources "$@" --zone="$zone"; }
on_all() { run gcloud compute tpus tpu-vm ssh "$tpu" --zone="$zone" --worker=all --command="$1"; }
state() { if [ "$dry" ]; then echo ACTIVE; else queue describe "$tpu" --format='value(state.state)' || echo GONE; fi; }
drop() { queue delete "$tpu" --force --quiet || true; }

# Returns when the slice is there; 1 when it will not be.
arrived() {
    if [ "$dry" ]; then queue describe "$tpu" --format='value(state.state)'; fi
    while :; do
        case "$(state)" in
        ACTIVE) return 0 ;;
        FAILED | SUSPENDING | SUSPENDED | DELETING | GONE) return 1 ;;
        *) sleep "${WAIT:-30}" ;;
        esac
    done
}

work() {
    run gcloud compute tpus tpu-vm scp "$archive" "$tpu:nca_gen.tar.gz" --zone="$zone" --worker=all &&
        on_all "mkdir -p nca_gen && tar -xzf nca_gen.tar.gz -C nca_gen && cd nca_gen && ACCELERATOR=tpu bash launch/setup.sh" &&
        on_all "cd nca_gen && .venv/bin/python -u -m nca_gen.main --config.mesh.distributed=true$(printf ' %q' "$@")"
}

archive=nca_gen.tar.gz
if [ -z "$dry" ]; then
    archive=$(mktemp -d)/nca_gen.tar.gz
    trap 'rm -rf "$(dirname "$archive")"' EXIT
fi
run git archive --format=tar.gz --output="$archive" HEAD
for ((i = 1; i <= ${TRIES:-20}; i++)); do
    # shellcheck disable=SC2086 # no word where SPOT is empty
    queue create "$tpu" --node-id="$tpu" --accelerator-type="$type" --runtime-version="$version" $spot || exit 2
    if arrived; then
        if work "$@"; then
            drop
            exit 0
        else
            code=$?
        fi
        if [ "$(state)" = ACTIVE ] && [ "$code" -ne 75 ]; then # the run's own error: the same command would fail again
            drop
            echo "tpu_vm: the run ended with $code" >&2
            exit "$code"
        fi
    fi
    echo "tpu_vm: slice $i of at most ${TRIES:-20} was lost; another one goes on from the last checkpoint" >&2
    drop
done
exit 75
