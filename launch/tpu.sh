#!/usr/bin/env bash
# Trains on Cloud TPUs from your own machine, with gcloud: on one TPU VM or all hosts of a slice, depending on TYPE. It
# creates what is missing, copies this working tree, installs, and starts the training on every host:
#
#   TYPE=v5litepod-4 bash launch/tpu.sh --config=configs/c150.py --workdir=gs://BUCKET/c150               # one host
#   TYPE=v5litepod-256 SPOT=1 bash launch/tpu.sh watch --config=configs/c150.py --workdir=gs://BUCKET/c150
#
#   bash launch/tpu.sh [up] FLAGS   as above; what runs there already is saved, stopped, and resumed with the new code
#   bash launch/tpu.sh watch FLAGS  the same, then waits: after a preemption it requests new TPUs and resumes there; at
#                                   the end it deletes them. Needs a machine that stays on; can be interrupted and
#                                   started again.
#   bash launch/tpu.sh log          follows the log of host WORKER (0)
#   bash launch/tpu.sh stop         SIGTERM: all hosts save and exit. The TPUs stay, and are billed
#   bash launch/tpu.sh delete       deletes the TPUs and their disks (end `watch` first). Until then every hour is
#                                   billed, training or not
#
# Settings: NAME (lovecraft), ZONE (us-west4-a), TYPE (v5litepod-4), RUNTIME (the image for TYPE), PROJECT
# (gcloud's), SPOT=1 (cheaper; may be preempted at any time, with 30 s to save at best), POLL (30 s). DRY_RUN=1 only
# prints.
#
# Needs gcloud, signed in, with TPU quota in ZONE, and for several hosts `ssh-add ~/.ssh/google_compute_engine`. The
# TPUs' service account must be allowed to write to the bucket. Requests are queued: they wait where there is no
# capacity, unbilled.
set -euo pipefail
cd "$(dirname "$0")/.."

NAME=${NAME:-lovecraft} TYPE=${TYPE:-v5litepod-4} POLL=${POLL:-30}
case $TYPE in
v5litepod-*) image=v2-alpha-tpuv5-lite ;;
v5p-*) image=v2-alpha-tpuv5 ;;
v6e-*) image=v2-alpha-tpuv6e ;;
*) image=tpu-ubuntu2204-base ;;
esac
where=(--zone="${ZONE:-us-west4-a}" ${PROJECT:+--project="$PROJECT"})

run() {
  if [ -n "${DRY_RUN:-}" ]; then printf '%q ' "$@" && echo; else "$@"; fi
}

on_hosts() { # WORKER COMMAND
  run gcloud compute tpus tpu-vm ssh "$NAME" "${where[@]}" --worker="$1" --command="$2"
}

state() { # of the request; empty where there is none
  [ -z "${DRY_RUN:-}" ] || return 0
  gcloud compute tpus queued-resources list "${where[@]}" --filter="name~/$NAME\$" --format='value(state.state)'
}

delete() {
  run gcloud compute tpus queued-resources delete "$NAME" "${where[@]}" --force --quiet
}

create() { # returns when the TPUs are there
  local now before=
  while :; do
    now=$(state) || return
    [ "$now" = "$before" ] || echo "$NAME: ${now:-no request for TPUs}" >&2
    before=$now
    case $now in
    ACTIVE) return ;;
    SUSPENDED | FAILED) delete || return ;; # preempted, or not available: a request is served once
    '')
      run gcloud compute tpus queued-resources create "$NAME" --node-id="$NAME" "${where[@]}" \
        --accelerator-type="$TYPE" --runtime-version="${RUNTIME:-$image}" ${SPOT:+--spot} || return
      [ -z "${DRY_RUN:-}" ] || return 0
      ;;
    *) sleep "$POLL" ;; # queued, being created, or being deleted
    esac
  done
}

copy_code() { # all files that git tracks or does not ignore, as they are now
  local folder=FOLDER
  [ -n "${DRY_RUN:-}" ] || { folder=$(mktemp -d) && git ls-files -z -co --exclude-standard >"$folder/files"; } || return
  run tar -czf "$folder/code.tgz" --null -T "$folder/files" &&
    run gcloud compute tpus tpu-vm scp "$folder/code.tgz" "$NAME:" "${where[@]}" --worker=all
}

up() { # joined by &&, because set -e is off where watch calls this
  local flags=
  [ $# = 0 ] || flags=$(printf ' %q' "$@")
  create && copy_code &&
    on_hosts all 'sudo systemctl stop lovecraft 2>/dev/null; mkdir -p lovecraft_jax' && # saves with the old code
    on_hosts all "tar -xzf code.tgz -C lovecraft_jax && bash lovecraft_jax/launch/tpu_worker.sh$flags"
}

watch() {
  local now status
  up "$@"
  while [ -z "${DRY_RUN:-}" ] && sleep "$POLL"; do
    now=$(state) || continue # gcloud has failed for a moment
    if [ "$now" != ACTIVE ]; then # preempted
      up "$@" || true
      continue
    fi
    status=$(on_hosts 0 'systemctl show lovecraft --property=ActiveState,ExecMainStatus') || continue
    case $status in
    *ActiveState=inactive* | *ActiveState=failed*) break ;;
    esac
  done
  on_hosts 0 'sudo journalctl --unit=lovecraft --no-pager --lines=40' || true
  delete
  [ -n "${DRY_RUN:-}" ] || return "$(sed -n 's/^ExecMainStatus=//p' <<<"$status")"
}

verb=up
case ${1:-} in
up | watch | log | stop | delete) verb=$1 && shift ;;
esac
case $verb in
up | watch)
  case " $* " in
  *' --workdir=gs://'* | *' --workdir gs://'* | *' --workdir=/'* | *' --workdir /'*) ;;
  *)
    echo "--workdir=gs://BUCKET/FOLDER is missing: a TPU VM's own disk goes when it does, and no other host sees it" >&2
    exit 2
    ;;
  esac
  "$verb" "$@"
  ;;
log) on_hosts "${WORKER:-0}" 'sudo journalctl --unit=lovecraft --follow --lines=100' ;;
stop) on_hosts all 'sudo systemctl disable --now lovecraft' ;; # not at the next reboot either
delete) delete ;;
esac
