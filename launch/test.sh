#!/usr/bin/env bash
# Installs into .venv and runs every check: format, lint, types, imports, tests. With --quick, of the tests a core and those of
# what differs from the last commit (launch/touched.py). With --accelerator cuda13 (or cuda12, tpu) only the tests of what an
# accelerator might compute otherwise, on it. Further arguments go to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
if [ -n "$extra" ]; then
    case "$extra" in
        *tpu*) platform=tpu ;;
        *) platform=cuda ;;
    esac
    JAX_PLATFORMS="$platform,cpu" exec .venv/bin/python -m pytest -m accelerator "$@"
fi
.venv/bin/ruff format --check --quiet .
.venv/bin/ruff check --quiet .
.venv/bin/mdformat --check ./*.md docs
.venv/bin/lint-imports --no-logo
said=$(mktemp)
.venv/bin/basedpyright >"$said" & # beside the tests, and what it says is said behind them
types=$!
trap 'kill "$types" 2>/dev/null; rm -f "$said"' EXIT
status=0
if [ "${1:-}" = --quick ]; then
    mapfile -t touched < <(.venv/bin/python -m launch.touched)
    set -- "${touched[@]}" "${@:2}"
fi
workers=$(($(getconf _NPROCESSORS_ONLN) + 1)) # many a test waits for processes of its own
.venv/bin/python -m pytest --numprocesses $((workers < 4 ? workers : 4)) --dist loadfile --no-loadscope-reorder "$@" ||
    status=$?
wait "$types" || status=$?
trap 'rm -f "$said"' EXIT # a kill that finds nothing would be this command's status
cat "$said"
.venv/bin/python -c "import jax_cuda13_plugin, libtpu" 2>/dev/null ||
    echo "NOT CHECKED: plans for TPUs and GPUs, for want of their compilers (pip install .[plan-gpu,plan-tpu])"
if [ -z "$(command -v chromium chromium-browser google-chrome)" ]; then
    echo "NOT CHECKED: report.html in a browser, for want of Chromium (chromium, chromium-browser or google-chrome)"
fi
exit "$status"
