#!/usr/bin/env bash
# A Ray node for attlas.
#   on one machine:       deploy/ray-start.sh head
#   on each of the others: deploy/ray-start.sh worker HEAD_ADDRESS
#   at the end, on all:   deploy/ray-start.sh stop
#
# PORT       the head's port, 6379
# NODE_IP    this machine's address that the others reach; Ray's own guess where it is not set
# NUM_CPUS, NUM_GPUS    what the node offers; what the machine has where they are not set
# The token in ~/.ray/auth_token (or RAY_AUTH_TOKEN) must be the same on all machines and is never sent to them by this script.
set -euo pipefail

role=${1:-}
port=${PORT:-6379}
export RAY_AUTH_MODE=token
export RAY_USAGE_STATS_ENABLED=0

options=()
[[ -z "${NODE_IP:-}" ]] || options+=("--node-ip-address=$NODE_IP")
[[ -z "${NUM_CPUS:-}" ]] || options+=("--num-cpus=$NUM_CPUS")
[[ -z "${NUM_GPUS:-}" ]] || options+=("--num-gpus=$NUM_GPUS")

has_token() { [[ -n "${RAY_AUTH_TOKEN:-}" || -s "${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}" ]]; }

case "$role" in
  head)
    has_token || ray get-auth-token --generate > /dev/null
    ray start --head --port="$port" --include-dashboard=false "${options[@]}"
    ;;
  worker)
    head=${2:?"the head's address is missing: ray-start.sh worker HEAD_ADDRESS"}
    has_token || { echo "error: copy ~/.ray/auth_token from the head to this machine, readable by you alone" >&2; exit 1; }
    ray start --address="$head:$port" "${options[@]}"
    ;;
  stop)
    ray stop
    ;;
  *)
    sed -n '2,10p' "$0" >&2
    exit 2
    ;;
esac
