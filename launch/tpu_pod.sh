#!/usr/bin/env bash
# Trains on all hosts of a TPU pod slice; JAX finds them by itself.
usage() {
    cat <<'TEXT'
usage: launch/tpu_pod.sh [--dry-run] NAME ZONE DIRECTORY --config FILE --workdir DIR [--config.KEY=VALUE ...]

NAME and ZONE are of the TPU, DIRECTORY is where this repository lies on each of its hosts, with its .venv and jax[tpu]
in it; PYTHON names another interpreter there. The workdir must be one that all hosts see. The same command goes on
with a run that was stopped. Needs gcloud.
TEXT
}
set -euo pipefail
run=()
if [[ "${1:-}" == --dry-run ]]; then
    shift
    run=(echo)
fi
if [[ $# -lt 5 ]]; then
    usage >&2
    exit 2
fi
name="$1" zone="$2" directory="$3"
shift 3
training="$(printf ' %q' "${PYTHON:-.venv/bin/python}" -m gfn_jax.train --distributed=on "$@")"
"${run[@]}" gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker all \
    --command "cd $(printf '%q' "$directory") && TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1$training"
