"""From the start of a process to the file of a picture with its detections drawn in, as contenders."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from benchmarks import pictures
from benchmarks.contender import Run

TORCHVISION = """
import sys
from maskrcnn_jax.parity.reference import torchvision
import torch
from PIL import Image
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

weights, picture, output = sys.argv[1:]
model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
model.load_state_dict(torch.load(weights, weights_only=True))
model.eval()
image = pil_to_tensor(Image.open(picture).convert("RGB"))
with torch.no_grad():
    found = model([image / 255])[0]
drawn = draw_segmentation_masks(image, found["masks"][:, 0] > 0.5)
to_pil_image(draw_bounding_boxes(drawn, found["boxes"])).save(output)
print(len(found["boxes"]))
"""


def ours() -> Run:
    """`maskrcnn-jax predict` with an exported program."""
    from maskrcnn_jax.cli.main import main

    folder = _inputs()
    assert main(["export", "--weights", f"{folder}/weights.pth", "--size", "800x1088", f"{folder}/program.npz"]) == 0
    command = [sys.executable, "-m", "maskrcnn_jax.cli.main", "predict", f"{folder}/picture.jpg"]
    command += ["--artifact", f"{folder}/program.npz", "--score-threshold", "0.05", "--output", f"{folder}/out"]

    def run() -> int:
        subprocess.run(command, check=True, capture_output=True)
        return len(json.loads(Path(folder, "out", "detections.json").read_text()))

    return run


def torchvision() -> Run:
    """A script that does the same with torchvision."""
    folder = _inputs()
    script = Path(folder, "script.py")
    script.write_text(TORCHVISION)
    command = [sys.executable, str(script), f"{folder}/weights.pth", f"{folder}/picture.jpg", f"{folder}/out.jpg"]
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    return lambda: int(subprocess.run(command, check=True, capture_output=True, env=environment).stdout)


def compare(theirs: int, ours: int) -> str:
    """Compares how many detections there are: both read the same JPEG, by decoders that need not agree to the bit.

    Raises:
        ValueError: The numbers differ much.
    """
    if abs(theirs - ours) > 5:
        raise ValueError(f"{theirs} and {ours} detections")
    return f"{theirs} and {ours} detections"


def _inputs() -> str:
    """A folder with random weights and a picture."""
    from maskrcnn_jax.parity import recipe
    from maskrcnn_jax.weights import files

    folder = tempfile.mkdtemp()
    config = recipe.config("v1")
    files.write(Path(folder, "weights.pth"), recipe.state_dict(config))
    Image.fromarray(pictures.pictures(pictures.ONE)[0]).save(f"{folder}/picture.jpg", quality=95)
    return folder
