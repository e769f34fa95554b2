#!/usr/bin/env bash
# From photographs and their annotations to a trained model; docs/your-data.md explains every step.
#
#   docs/your_data.sh IMAGES ANNOTATIONS OUT [--config.FIELD=VALUE ...]
set -euo pipefail

if [ $# -lt 3 ]; then
  echo "usage: $0 IMAGES ANNOTATIONS OUT [--config.FIELD=VALUE ...]" >&2
  exit 2
fi
images=$1 annotations=$2 out=$3
shift 3
checkout=$(dirname "$0")/..

# Draw the data, and hold some of it out. An existing val.json stays. The exit code 1 means that bad
# photographs were listed and left out.
maskrcnn-jax data browse --images "$images" --annotations "$annotations" --output "$out/look" ||
  [ $? -eq 1 ]
[ -e "$out/val.json" ] ||
  maskrcnn-jax data split --images "$images" --annotations "$annotations" --fraction 0.3 --output "$out" ||
  [ $? -eq 1 ]

# Train. A second start continues from the last checkpoint.
python "$checkout/train.py" --config="$checkout/configs/your_data.py" --workdir="$out/run" \
  --config.data.train_images="$images" --config.data.train_annotations="$out/train.json" \
  --config.data.val_images="$images" --config.data.val_annotations="$out/val.json" "$@"

# Measure the AP, and list the mistakes.
maskrcnn-jax evaluate --weights "$out/run" --per-class --report "$out/evaluation.html" ||
  [ $? -eq 1 ]

# Detect objects in a held-out photograph.
name=$(python -c "import json, sys; print(json.load(open(sys.argv[1]))['images'][0]['file_name'])" "$out/val.json")
maskrcnn-jax predict "$images/$name" --weights "$out/run" --output "$out/predictions"
