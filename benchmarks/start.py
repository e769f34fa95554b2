"""Contenders that start a process, detect objects in an image, and write a drawing."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from benchmarks import inputs
from benchmarks.contender import Run

TORCHVISION = """
import sys
from maskrcnn_jax.parity.reference import torchvision
import torch
from PIL import Image
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

weights, path, output = sys.argv[1:]
model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
model.load_state_dict(torch.load(weights, weights_only=True))
model.eval()
image = pil_to_tensor(Image.open(path).convert("RGB"))
with torch.no_grad():
    found = model([image / 255])[0]
drawn = draw_segmentation_masks(image, found["masks"][:, 0] > 0.5)
to_pil_image(draw_bounding_boxes(drawn, found["boxes"])).save(output)
print(len(found["boxes"]))
"""


def ours() -> Run:
    """Runs `maskrcnn-jax predict` with an exported artifact."""
    from maskrcnn_jax.cli.main import main

    folder = _inputs()
    program, output = f"{folder}/program.npz", f"{folder}/out"
    export = ["export", "--weights", f"{folder}/weights.pth", "--size", "800x1088", program]
    assert main(export) == 0
    command = [sys.executable, "-m", "maskrcnn_jax", "predict", f"{folder}/image.jpg"]
    command += ["--artifact", program, "--score-threshold", "0.05", "--output", output]

    def run() -> int:
        subprocess.run(command, check=True, capture_output=True)
        return len(json.loads(Path(folder, "out", "detections.json").read_text()))

    return run


def torchvision() -> Run:
    """Runs a script that does the same with torchvision."""
    folder = _inputs()
    script = Path(folder, "script.py")
    script.write_text(TORCHVISION)
    names = "weights.pth", "image.jpg", "out.jpg"
    command = [sys.executable, str(script), *(f"{folder}/{name}" for name in names)]
    environment = os.environ | {"PYTHONPATH": os.getcwd()}

    def run() -> int:
        done = subprocess.run(command, check=True, capture_output=True, env=environment)
        return int(done.stdout)

    return run


def compare(theirs: int, ours: int) -> str:
    """Compares the numbers of detections; JPEG decoders may differ in the last bit.

    Raises:
        ValueError: The numbers differ by more than 5.
    """
    if abs(theirs - ours) > 5:
        raise ValueError(f"{theirs} and {ours} detections")
    return f"{theirs} and {ours} detections"


def _inputs() -> str:
    """Makes a folder with random weights and an image."""
    from maskrcnn_jax.parity import recipe
    from maskrcnn_jax.weights import files

    folder = tempfile.mkdtemp()
    config = recipe.config("v1")
    files.write(Path(folder, "weights.pth"), recipe.state_dict(config))
    (image,) = inputs.images(inputs.ONE)
    Image.fromarray(image).save(f"{folder}/image.jpg", quality=95)
    return folder
