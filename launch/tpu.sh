#!/usr/bin/env bash
# Trains on Cloud TPUs from your own machine, with gcloud: one TPU VM, or all hosts of a slice; TYPE makes the
# difference. It creates what is missing, copies this working tree, installs, and starts the training on every host:
#
#   TYPE=v5litepod-4 bash launch/tpu.sh --config=configs/c150.py --workdir=gs://BUCKET/c150               # one host
#   TYPE=v5litepod-256 SPOT=1 bash launch/tpu.sh watch --config=configs/c150.py --workdir=gs://BUCKET/c150
#
#   bash launch/tpu.sh [up] FLAGS   as above; again, it saves and stops what runs there, and starts with the new code
#   bash launch/tpu.sh watch FLAGS  the same, then stays: asks for new TPUs where they were preempted, goes on there,
#                                   and deletes them at the end. Needs a machine that stays on; what it does can be
#                                   interrupted and started again.
#   bash launch/tpu.sh log          follows the log of host WORKER (0)
#   bash launch/tpu.sh stop         SIGTERM: all hosts save and leave. The TPUs stay, and are billed
#   bash launch/tpu.sh delete       deletes the TPUs and their disks (end `watch` first). Until then every hour is
#                                   billed, training or not
#
# Settings: NAME (lovecraft), ZONE (us-west4-a), TYPE (v5litepod-4), RUNTIME (the image that fits TYPE), PROJECT
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

state() { # of the request; none where there is no such request
  [ -z "${DRY_RUN:-}" ] || return 0
  gcloud compute tpus queued-resources list "${where[@]}" --filter="name~/$NAME\$" --format='value(state.state)'
}

delete() {
  run gcloud compute tpus queued-resources delete "$NAME" "${where[@]}" --force --quiet
}

create() { # until the TPUs are there
  local now before=
  while :; do
    now=$(state) || return
    [ "$now" = "$before" ] || echo "$NAME: ${now:-no request for TPUs}" >&2
    before=$now
    case $now in
    ACTIVE) return ;;
    SUSPENDED | FAILED) delete || return ;; # preempted, or never to be had: a request is good for one time
    '')
      run gcloud compute tpus queued-resources create "$NAME" --node-id="$NAME" "${where[@]}" \
        --accelerator-type="$TYPE" --runtime-version="${RUNTIME:-$image}" ${SPOT:+--spot} || return
      [ -z "${DRY_RUN:-}" ] || return 0
      ;;
    *) sleep "$POLL" ;; # queued, being made, or being deleted
    esac
  done
}

copy_code() { # what git tracks or would, as it is now
  local folder=FOLDER
  [ -n "${DRY_RUN:-}" ] || { folder=$(mktemp -d) && git ls-files -z -co --exclude-standard >"$folder/files"; } || return
  run tar -czf "$folder/code.tgz" --null -T "$folder/files" &&
    run gcloud compute tpus tpu-vm scp "$folder/code.tgz" "$NAME:" "${where[@]}" --worker=all
}

up() { # `&&`, as `set -e` is off where watch calls this
  local flags=
  [ $# = 0 ] || flags=$(printf ' %q' "$@")
  create && copy_code &&
    on_hosts all 'sudo systemctl stop lovecraft 2>/dev/null; mkdir -p lovecraft_jax' && # saved, before its code changes
    on_hosts all "tar -xzf code.tgz -C lovecraft_jax && bash lovecraft_jax/launch/tpu_worker.sh$flags"
}

watch() {
  local now told
  up "$@"
  while [ -z "${DRY_RUN:-}" ] && sleep "$POLL"; do
    now=$(state) || continue # gcloud not to be had for a moment
    if [ "$now" != ACTIVE ]; then # preempted
      up "$@" || true
      continue
    fi
    told=$(on_hosts 0 'systemctl show lovecraft --property=ActiveState,ExecMainStatus') || continue
    case $told in
    *ActiveState=inactive* | *ActiveState=failed*) break ;;
    esac
  done
  on_hosts 0 'sudo journalctl --unit=lovecraft --no-pager --lines=40' || true
  delete
  [ -n "${DRY_RUN:-}" ] || return "$(sed -n 's/^ExecMainStatus=//p' <<<"$told")"
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
