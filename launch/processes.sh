#!/usr/bin/env bash
# Trains in several processes on this machine, to test a cluster. On a CPU they share the cores.
#
#   launch/processes.sh 2 --config=configs/shapes.py --workdir=runs/two
set -uo pipefail

if ! [[ ${1:-} =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: $0 COUNT --config=FILE --workdir=DIR [--config.FIELD=VALUE ...]" >&2
  exit 2
fi
cd "$(dirname "$0")/.."

count=$1
shift
python=${PYTHON:-.venv/bin/python}
free_port='import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])'
port=$("$python" -c "$free_port")

pids=()
for ((i = 0; i < count; i++)); do
  "$python" train.py --coordinator="localhost:$port" --num_processes="$count" \
    --process_id="$i" "$@" &
  pids+=($!)
done
trap 'kill -TERM "${pids[@]}" 2>/dev/null' TERM INT # The processes save and stop.

code=0
for pid in "${pids[@]}"; do
  wait "$pid" || code=$?
done
for pid in "${pids[@]}"; do # A signal ends the first loop of waits early.
  wait "$pid" || code=$?
done
exit "$code"
