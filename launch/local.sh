#!/usr/bin/env bash
# Trains on this machine, and goes on by itself after a crash.
usage() {
    cat <<'TEXT'
usage: launch/local.sh [--processes N] [--attempts N] [--background] [--dry-run]
                       --config FILE --workdir DIR [--config.KEY=VALUE ...]

One process with all devices or, with --processes N, one for each of the first N GPUs, joined on loopback.
Starts a Redis server if the configuration wants one here and none answers, and stops it at the end.

  --attempts N    starts in all, where the run ends otherwise than well or by wrong input (3)
  --background    returns at once; what is printed goes to DIR.log
  --dry-run       prints what would run

PYTHON names the interpreter (.venv/bin/python, if that is here); XLA_PYTHON_CLIENT_MEM_FRACTION is JAX's share of
each GPU (0.7 where the NLI model has one too).
TEXT
}
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
given=("$@")
processes=1 attempts=3 background="" dry_run="" workdir="" training=()
while [[ $# -gt 0 ]]; do
    case "$1" in
        --help | -h) usage && exit ;;
        --processes=* | --attempts=* | --workdir=*)
            name="${1%%=*}" value="${1#*=}"
            shift
            set -- "$name" "$value" "$@"
            ;;
        --processes) processes="$2" && shift 2 ;;
        --attempts) attempts="$2" && shift 2 ;;
        --background) background=yes && shift ;;
        --dry-run) dry_run=yes && shift ;;
        --workdir) workdir="$2" && training+=("--workdir=$2") && shift 2 ;;
        *) training+=("$1") && shift ;;
    esac
done
fail() {
    echo "error: $1" >&2
    exit 2
}
[[ -n "$workdir" ]] || fail "--workdir is missing; --help says more"
[[ "$processes" =~ ^[1-9][0-9]*$ ]] || fail "--processes $processes is no number of processes"
[[ "$attempts" =~ ^[1-9][0-9]*$ ]] || fail "--attempts $attempts is no number of starts"
python="${PYTHON:-.venv/bin/python}"
command -v "$python" >/dev/null || fail "there is no $python: set PYTHON, or make .venv with launch/test.sh"

if [[ -n "$background" ]]; then
    again=()
    for argument in "${given[@]}"; do [[ "$argument" == --background ]] || again+=("$argument"); done
    mkdir -p "$(dirname "$workdir")"
    nohup bash launch/local.sh "${again[@]}" >>"$workdir.log" 2>&1 &
    echo "process $! writes to $workdir.log; kill $! saves and stops"
    exit
fi

config=()
for argument in "${training[@]}"; do [[ "$argument" == --workdir=* ]] || config+=("$argument"); done
wanted="$("$python" -m launch.wanted "${config[@]}")"
export TOKENIZERS_PARALLELISM=false
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
if grep -q "^judge" <<<"$wanted"; then
    export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.7}"
fi
run() {
    if [[ -n "$dry_run" ]]; then
        echo "$*"
    else
        "$@" &
        pids+=("$!")
    fi
}

redis_pid=""
stop_redis() {
    if [[ -n "$redis_pid" ]]; then kill "$redis_pid" 2>/dev/null || true; fi
}
trap stop_redis EXIT
if read -r _ host port < <(grep "^redis" <<<"$wanted"); then
    server=(redis-server --bind "$host" --port "$port" --save "" --appendonly no)
    if [[ -n "$dry_run" ]]; then
        echo "${server[*]}"
    else
        command -v redis-server >/dev/null ||
            fail "no Redis answers at $host:$port and redis-server is not installed; or choose --config.replay.backend=memory"
        "${server[@]}" >/dev/null &
        redis_pid=$!
        for _ in {1..100}; do
            if (exec 3<>"/dev/tcp/$host/$port") 2>/dev/null; then break; fi
            kill -0 "$redis_pid" 2>/dev/null || fail "redis-server ended at once at $host:$port"
            sleep 0.1
        done
    fi
fi

stopping=""
stop() {
    stopping=yes
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
}
trap stop TERM INT
await() { # until a process has ended, whatever signals come meanwhile
    local status=0
    while kill -0 "$1" 2>/dev/null; do
        status=0
        wait "$1" || status=$?
    done
    wait "$1" 2>/dev/null || status=$?
    return "$status"
}
for ((attempt = 1; attempt <= attempts; attempt++)); do
    pids=()
    if [[ "$processes" == 1 ]]; then
        run "$python" -m gfn_jax.train "${training[@]}"
    else
        port="$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')"
        joined=(--coordinator="127.0.0.1:$port" --processes="$processes")
        for ((index = 0; index < processes; index++)); do
            run env CUDA_VISIBLE_DEVICES="$index" "$python" -m gfn_jax.train "${training[@]}" "${joined[@]}" --process_id="$index"
        done
    fi
    [[ -z "$dry_run" ]] || exit 0
    worst=0
    for pid in "${pids[@]}"; do
        status=0
        await "$pid" || status=$?
        if [[ "$status" != 0 && ("$worst" == 0 || "$status" == 2) ]]; then worst="$status"; fi
    done
    if [[ "$worst" == 0 || "$worst" == 2 || -n "$stopping" ]]; then break; fi
    echo "start $attempt of $attempts ended with status $worst" >&2
done
echo "ended with status $worst" >&2
exit "$worst"
