#!/usr/bin/env bash
# Installs into .venv, fetches SmolLM2-135M by pip, and has it learn to draw random numbers. With
# --accelerator cuda13 (or cuda12, tpu) on that. Further flags go to the training command.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
.venv/bin/python data/fetch.py smollm2
.venv/bin/python -m gfn_jax.train --config configs/random_number_smollm2.py --workdir runs/random_number "$@"
