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
fail() {
    echo "error: $1" >&2
    exit 2
}
given=("$@")
processes=1 attempts=3 background="" dry_run="" workdir="" config=() training=()
while [[ $# -gt 0 ]]; do
    case "$1" in
        --help | -h) usage && exit ;;
        --processes=* | --attempts=* | --workdir=* | --config=*)
            name="${1%%=*}" value="${1#*=}"
            shift
            set -- "$name" "$value" "$@"
            ;;
        --processes | --attempts | --workdir | --config)
            [[ $# -ge 2 ]] || fail "$1 wants a value"
            case "$1" in
                --processes) processes="$2" ;;
                --attempts) attempts="$2" ;;
                --workdir) workdir="${2%/}" && training+=("--workdir=$workdir") ;;
                --config) config+=("--config=$2") ;;
            esac
            shift 2
            ;;
        --background) background=yes && shift ;;
        --dry-run) dry_run=yes && shift ;;
        --config.*=*) config+=("$1") && shift ;;
        *) training+=("$1") && shift ;;
    esac
done
[[ -n "$workdir" ]] || fail "--workdir is missing; --help says more"
[[ "$processes" =~ ^[1-9][0-9]*$ ]] || fail "--processes $processes is no number of processes"
[[ "$attempts" =~ ^[1-9][0-9]*$ ]] || fail "--attempts $attempts is no number of starts"
python="${PYTHON:-.venv/bin/python}"
command -v "$python" >/dev/null || fail "there is no $python: set PYTHON, or make .venv with launch/test.sh"

if [[ -n "$background" ]]; then
    again=()
    for argument in "${given[@]}"; do [[ "$argument" == --background ]] || again+=("$argument"); done
    mkdir -p "$(dirname "$workdir")"
    exec 4>>"$workdir.log"
    nohup bash launch/local.sh "${again[@]}" >&4 2>&4 &
    echo "process $! writes to $workdir.log; kill $! saves and stops"
    exit
fi

wanted="$("$python" -m launch.wanted "${config[@]}")"
training=("${config[@]}" "${training[@]}")
export TOKENIZERS_PARALLELISM=false
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
read -r _ judge < <(grep "^judge" <<<"$wanted") || true
if [[ -n "$judge" ]]; then
    export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.7}"
    [[ "$processes" == 1 || "$judge" == cuda || "$judge" == cuda:0 ]] ||
        fail "reward.nli.device=$judge: each of several processes sees one GPU, which it calls cuda:0"
fi

redis_pid="" pids=() stopping=""
stop_redis() {
    if [[ -n "$redis_pid" ]]; then kill "$redis_pid" 2>/dev/null || true; fi
}
stop() {
    stopping=yes
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
}
trap stop_redis EXIT
trap stop TERM INT

run() {
    if [[ -n "$dry_run" ]]; then
        printf '%q ' "$@" && echo
    elif [[ -z "$stopping" ]]; then
        "$@" &
        pids+=("$!")
    fi
}
if read -r _ host port < <(grep "^redis" <<<"$wanted"); then
    server=(redis-server --bind "$host" --port "$port" --save "" --appendonly no)
    if [[ -n "$dry_run" ]]; then
        run "${server[@]}"
    else
        command -v redis-server >/dev/null ||
            fail "no Redis answers at $host:$port and redis-server is not installed; or choose --config.replay.backend=memory"
        setsid "${server[@]}" >/dev/null & # a terminal's Ctrl-C is for the training, which still needs it to save
        redis_pid=$!
        for _ in {1..100}; do
            if (exec 3<>"/dev/tcp/$host/$port") 2>/dev/null; then break; fi
            kill -0 "$redis_pid" 2>/dev/null || fail "redis-server ended at once at $host:$port"
            sleep 0.1
        done
    fi
fi

# Waits for all processes; where one fails, the others have a minute to end. Sets `worst`, where wrong input counts most.
wait_for_all() {
    local pid status left patience=120
    local -A ended=()
    worst=0
    while true; do
        left=0
        for pid in "${pids[@]}"; do
            if [[ -n "${ended[$pid]:-}" ]]; then continue; fi
            if kill -0 "$pid" 2>/dev/null; then
                left=$((left + 1))
                continue
            fi
            status=0
            wait "$pid" || status=$?
            ended[$pid]=yes
            if [[ "$status" != 0 && ("$worst" == 0 || "$status" == 2) ]]; then worst="$status"; fi
        done
        if [[ "$left" == 0 ]]; then return; fi
        if [[ "$worst" != 0 ]]; then
            patience=$((patience - 1))
            if [[ "$patience" == 0 ]]; then
                for pid in "${pids[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
            fi
        fi
        sleep 0.5 &
        wait "$!" || true
    done
}
IFS=, read -ra gpus <<<"${CUDA_VISIBLE_DEVICES:-}"
for ((attempt = 1; attempt <= attempts; attempt++)); do
    pids=() worst=0
    if [[ "$processes" == 1 ]]; then
        run "$python" -m gfn_jax.train "${training[@]}"
    else
        port="$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')"
        joined=(--coordinator="127.0.0.1:$port" --processes="$processes")
        for ((index = 0; index < processes; index++)); do
            gpu="${gpus[index]:-$index}"
            run env CUDA_VISIBLE_DEVICES="$gpu" "$python" -m gfn_jax.train "${training[@]}" "${joined[@]}" --process_id="$index"
        done
    fi
    [[ -z "$dry_run" ]] || exit 0
    if [[ -n "$stopping" ]]; then stop; fi
    wait_for_all
    if [[ "$worst" == 0 || "$worst" == 2 || -n "$stopping" ]]; then break; fi
    echo "start $attempt of $attempts ended with status $worst" >&2
done
echo "ended with status $worst" >&2
exit "$worst"
