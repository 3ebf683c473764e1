#!/usr/bin/env bash
# Trains as N processes on this machine, each on its share of the cores:
#   bash launch/local_processes.sh 2 --config=configs/tiny.py [any flag of lovecraft_jax.train]
set -euo pipefail
source "$(dirname "$0")/install.sh"
install_venv

exec .venv/bin/python -m launch.local_processes --local_processes="${1:-}" "${@:2}"
