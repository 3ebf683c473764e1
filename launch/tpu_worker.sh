#!/usr/bin/env bash
# On every TPU VM, started by tpu.sh over ssh: installs, then makes the training a service of systemd, which outlives the
# ssh connection, starts again after a reboot (maintenance), and gets SIGTERM when the machine shuts down. again.sh
# starts it again where it exits with 75.
#
#   bash launch/tpu_worker.sh --config=configs/c150.py --workdir=gs://BUCKET/c150        # DRY_RUN=1 only prints
set -euo pipefail
source "$(dirname "$0")/install.sh"

# After a reboot the lock of the start before is still in the workdir, hence --take_over.
command=(bash launch/again.sh
  .venv/bin/python -m lovecraft_jax.train --distributed --start_timeout=600 --take_over "$@")
unit="[Unit]
Description=lovecraft_jax
Wants=network-online.target
After=network-online.target

[Service]
User=$(id -un)
WorkingDirectory=$PWD
ExecStart=/bin/bash $PWD/command.sh
# SIGTERM to again.sh alone, which passes it on once: a second one would end the training before it has saved.
KillMode=mixed
TimeoutStopSec=120
SuccessExitStatus=75
# The TPU's driver locks more memory than systemd's default allows.
LimitMEMLOCK=infinity

[Install]
WantedBy=multi-user.target"
if [ -n "${DRY_RUN:-}" ]; then
  printf '%q ' "${command[@]}"
  printf '\n%s\n' "$unit"
  exit
fi

# The VMs' Ubuntu 22.04 has Python 3.10, too old for jax.
if ! "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  python3 -m pip install --quiet --user uv
  python3 -m uv python install --quiet 3.12
  PYTHON=$(python3 -m uv python find 3.12)
  export PYTHON
fi
install_venv gcs # and, as it finds a TPU, tpu

printf '%q ' exec "${command[@]}" >command.sh # in a file, because systemd has its own rules of quoting
echo "$unit" | sudo tee /etc/systemd/system/lovecraft.service >/dev/null
sudo systemctl daemon-reload
sudo systemctl enable --quiet lovecraft
sudo systemctl restart lovecraft
