#!/usr/bin/env bash
# Runs the whole test suite: bash launch/test.sh [any argument of pytest]
set -euo pipefail
source "$(dirname "$0")/install.sh"
install_venv test

exec .venv/bin/python -m pytest "$@"
