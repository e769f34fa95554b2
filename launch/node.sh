#!/usr/bin/env bash
# Trains on one machine with several GPUs: one process drives all GPUs, which share each batch.
#
#   launch/node.sh --config=configs/r50_fpn_1x.py --workdir=runs/r50 --config.batch_size=16
set -euo pipefail
cd "$(dirname "$0")/.."

exec "${PYTHON:-.venv/bin/python}" train.py "$@"
