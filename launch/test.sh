#!/usr/bin/env bash
# Installs into .venv and runs every check: format, lint, types, imports, tests. Further arguments go to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
.venv/bin/ruff format --check --quiet .
.venv/bin/ruff check --quiet .
.venv/bin/basedpyright
.venv/bin/lint-imports --no-logo
.venv/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile "$@"
