#!/usr/bin/env bash
# Trains on all hosts of a TPU pod slice; JAX finds them by itself.
usage() {
    cat <<'TEXT'
usage: launch/tpu_pod.sh [--dry-run] NAME ZONE DIRECTORY --config FILE --workdir DIR [--config.KEY=VALUE ...]

NAME and ZONE are of the TPU, DIRECTORY is where this repository lies on each of its hosts, with its .venv and jax[tpu]
in it; PYTHON names another interpreter there. The workdir must be one that all hosts see. The same command goes on
with a run that was stopped; `pkill -TERM -f gfn_jax.train` on the hosts saves and stops one. Needs gcloud.
TEXT
}
set -euo pipefail
dry_run="" given=()
for argument in "$@"; do
    case "$argument" in
        --help | -h) usage && exit ;;
        --dry-run) dry_run=yes ;;
        *) given+=("$argument") ;;
    esac
done
if [[ ${#given[@]} -lt 5 ]]; then
    usage >&2
    exit 2
fi
training="$(printf ' %q' "${PYTHON:-.venv/bin/python}" -m gfn_jax.train --distributed=on "${given[@]:3}")"
command=(
    gcloud compute tpus tpu-vm ssh "${given[0]}" --zone "${given[1]}" --worker all
    --command "cd $(printf '%q' "${given[2]}") && TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1$training"
)
if [[ -n "$dry_run" ]]; then
    printf '%q ' "${command[@]}" && echo
    exit
fi
exec "${command[@]}"
