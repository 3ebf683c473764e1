#!/usr/bin/env bash
# Runs a command, and again as long as it leaves with 75 (saved, or a peer was lost) or 134 (JAX's abort where process 0
# was lost). For machines with nothing of their own that would:
#
#   bash launch/again.sh bash launch/local.sh --config=configs/c150.py
#
# At most STARTS (10) starts in a row that each last under LONG (1800) seconds, PAUSE (10) seconds apart. SIGTERM is
# passed on, and Ctrl-C as one; after either the command is not started again. DRY_RUN=1 only prints.
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: bash launch/again.sh COMMAND [ARGUMENT ...]" >&2; exit 2; }
if [ -n "${DRY_RUN:-}" ]; then
  printf '%q ' "$@" && echo
  exit
fi

signals=0 short=0 child='' passed=''
pass_on() {
  [ -z "$child" ] || { passed=1 && kill -TERM "$child" 2>/dev/null || true; }
}
trap 'signals=$((signals + 1)) && pass_on' TERM INT # what bash starts with & does not hear Ctrl-C

while :; do
  began=$SECONDS
  "$@" &
  child=$!
  [ "$signals" = 0 ] || [ -n "$passed" ] || pass_on # it came before there was a child to tell
  while :; do # a signal of ours ends `wait` before the command has ended
    seen=$signals code=0
    wait "$child" || code=$?
    [ "$signals" != "$seen" ] || break
  done
  child=
  [ "$signals" = 0 ] || exit "$code"
  [ "$code" = 75 ] || [ "$code" = 134 ] || exit "$code"

  [ $((SECONDS - began)) -lt "${LONG:-1800}" ] && short=$((short + 1)) || short=0
  if [ "$short" -ge "${STARTS:-10}" ]; then
    echo "launch/again.sh: $short starts in a row have ended with $code or its like: not again" >&2
    exit "$code"
  fi
  echo "launch/again.sh: exit code $code, starting again in ${PAUSE:-10} s" >&2
  sleep "${PAUSE:-10}" & nap=$!
  wait "$nap" || kill "$nap" # a signal of ours
  [ "$signals" = 0 ] || exit "$code"
done
