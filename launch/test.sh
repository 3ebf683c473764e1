#!/usr/bin/env bash
# Runs the test suite: bash launch/test.sh [any argument of pytest]
#
# PYTHON names another Python, VENV the folder of its virtual environment (.venv).
set -euo pipefail
source "$(dirname "$0")/install.sh"
venv=${VENV:-.venv}
install_venv test "$venv"

unset PYTHON VENV  # they are for this script: tests start scripts that would read them
exec "$venv/bin/python" -m pytest "$@"
