# shellcheck shell=bash
# Sourced by the other scripts, which then call `install_venv [extra]`: makes a .venv with requirements.txt, the extra of
# jax for this machine, and an extra of pyproject.toml. Installs again only when what it would install has changed.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

install_venv() {
  local python=${PYTHON:-python3} extra=${1:-} what
  if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "Python 3.11 or newer is needed, $("$python" --version 2>&1) is here: set PYTHON to one" >&2
    exit 2
  fi
  [ -x .venv/bin/python ] || "$python" -m venv .venv

  if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then
    extra=${extra:+$extra,}gpu
  elif [ -e /dev/accel0 ] || [ -e /dev/vfio/0 ]; then
    extra=${extra:+$extra,}tpu
  fi
  what="${extra:+.[$extra]} $(cat requirements.txt pyproject.toml | sha256sum)"
  if [ "$(cat ".venv/installed-${extra:-plain}" 2>/dev/null)" != "$what" ]; then
    echo "installing requirements.txt${extra:+ and the extras $extra} into .venv" >&2
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt ${extra:+-e ".[$extra]"}
    echo "$what" >".venv/installed-${extra:-plain}"
    .venv/bin/python -m lovecraft_jax.model.native.build  # compiles now what the first start would wait for
  fi
}
