#!/usr/bin/env bash
# Trains on this machine: bash launch/local.sh [--config=configs/c150.py] [any flag of lovecraft_jax.train]
set -euo pipefail
source "$(dirname "$0")/install.sh"
install_venv

for argument in "$@"; do
  [[ $argument == --config=* || $argument == --config ]] && exec .venv/bin/python -m lovecraft_jax.train "$@"
done
exec .venv/bin/python -m lovecraft_jax.train --config=configs/c150.py "$@"
