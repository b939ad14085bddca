#!/usr/bin/env bash
# Installs into .venv and trains the miniature: minutes on two CPU cores. With --accelerator cuda13 (or cuda12, tpu) on that.
# Further flags go to the training command.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
.venv/bin/python -m gfn_jax.train --config configs/quickstart.py --workdir runs/quickstart "$@"
