#!/usr/bin/env bash
# Installs into .venv and trains the miniature: minutes on two CPU cores. Further flags go to the training command.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
.venv/bin/python -m gfn_jax.train --config configs/quickstart.py --workdir runs/quickstart "$@"
