#!/usr/bin/env bash
# Runs every benchmark in its smallest form, and the tutorial, to see that it still runs: what it measures this way means nothing.
# Those that need SmolLM2, the compilers of accelerators or what executes notebooks say NOT RUN where these are missing. Arguments
# name the ones that are wanted: benchmarks/smoke.sh replay soak
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
wanted="$*" failed="" known=""
export JAX_PLATFORMS=cpu

try() { # NAME ARGUMENTS: of a benchmark
    local name="$1"
    shift
    run "$name" .venv/bin/python "benchmarks/$name.py" "$@"
}

run() { # NAME COMMAND: one line for each, and what it printed where it failed
    local name="$1" started=$SECONDS
    shift
    known+=" $name"
    if [ -n "$wanted" ] && ! [[ " $wanted " == *" $name "* ]]; then return; fi
    if timeout 900 "$@" >"$place/said" 2>&1; then
        echo "$name: $((SECONDS - started)) s"
    else
        echo "$name: FAILED after $((SECONDS - started)) s"
        tail -n 40 "$place/said" | sed 's/^/    /'
        failed+=" $name"
    fi
}

mini=data/miniworld/gpt2
try replay --steps 1
try many_prompts --prompts 2000
try exactness --problems flat --objectives vargrad --modes on-policy --seeds 0 --out "$place/exactness.json"
try exactness_report docs/results/exactness.json
try mutants --only "a nucleus"
try fuzz --inputs 2
try load_model --model gpt2
try profile_step --prompts 1 --samples 2 --tokens 5 --written 3 --repeats 1
try step_time --prompts 1 --rounds 1
try time_to_quality --seeds 1 --steps 2
try first_step --config configs/next_sentence_mini.py --starts 1
try contradiction --seeds 1 --steps 2 --samples 64 --workdir "$place/contradiction"
try plot_run --workdir "$place/contradiction/seed_0" --out "$place/run.png"
try command_times --workdir "$place/contradiction/seed_0" --prompts 2 --rounds 1
try invariance --steps 1 --tasks next_sentence --settings float64 --layouts 2x2
try lost_process --processes 2 --faults "coordinator killed"
try chaos --runs 1 --kills 1 --cases "$(.venv/bin/python -c 'import sys; sys.path.insert(0, "benchmarks"); import chaos; print(chaos.CASES[0].name)')"
try soak --kind prompts --steps 60 --settled 5 --every_s 0.05 --most 1000000
try scaling --models gpt2
try real_language_tables docs/results/real_language
try plans --table docs/results/plans.json
if [ -d data/smollm2/model ]; then
    try random_number --seeds 1 --steps 1 --workdir "$place/numbers"
else
    echo "random_number, real_language, gguf_parity: NOT RUN, for want of data/smollm2/model (python data/fetch.py smollm2)"
fi
if [ -x .venv/bin/jupyter-execute ]; then
    run tutorial .venv/bin/jupyter-execute docs/tutorial.ipynb
else
    echo "tutorial: NOT RUN, for want of nbclient and ipykernel (pip install .[tutorial])"
fi
for name in $wanted; do
    if ! [[ "$known " == *" $name "* ]]; then
        echo "there is no $name here; there are$known"
        exit 1
    fi
done
if [ -n "$failed" ]; then
    echo "these no longer run:$failed"
    exit 1
fi
