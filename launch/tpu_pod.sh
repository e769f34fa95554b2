#!/usr/bin/env bash
# Trains on all hosts of a TPU pod slice, from your own machine. The repository and its .venv must
# be at the same place on each host, see docs/pods.md.
#
#   TPU=pod ZONE=us-west4-a launch/tpu_pod.sh --config=configs/r50_fpn_1x.py \
#     --workdir=/mnt/shared/runs/r50
set -euo pipefail
: "${TPU:?the name of the TPU}" "${ZONE:?its zone}"

command="cd \${HOME}/maskrcnn_jax && .venv/bin/python train.py --distributed $(printf '%q ' "$@")"
exec gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$command"
