#!/usr/bin/env bash
# Runs a training, and again as long as it exits with 75 (saved, or another process was lost) or 134 (JAX's abort where
# process 0 was lost), from the second start on with --take_over. For machines without a scheduler that would:
#
#   bash launch/again.sh bash launch/local.sh --config=configs/c150.py
#
# At most STARTS (10) starts in a row that each last under LONG (1800) seconds, PAUSE (10) seconds apart. SIGTERM and
# Ctrl-C are passed on as SIGTERM; after either the command is not started again. DRY_RUN=1 only prints.
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
trap 'signals=$((signals + 1)) && pass_on' TERM INT # bash starts background processes with SIGINT ignored

while :; do
  began=$SECONDS
  "$@" &
  child=$!
  [ "$signals" = 0 ] || [ -n "$passed" ] || pass_on # it came before there was a child
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
    echo "launch/again.sh: $short short starts in a row, the last with exit code $code: giving up" >&2
    exit "$code"
  fi
  echo "launch/again.sh: exit code $code, starting again in ${PAUSE:-10} s" >&2
  case " $* " in
  *' --take_over '*) ;;
  *) set -- "$@" --take_over ;; # the lock that the start before may have left is our own
  esac
  sleep "${PAUSE:-10}" & nap=$!
  wait "$nap" || kill "$nap" # a signal of ours
  [ "$signals" = 0 ] || exit "$code"
done
