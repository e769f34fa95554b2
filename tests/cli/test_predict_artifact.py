"""`maskrcnn-jax predict --artifact`, in a process of its own: what it imports counts."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax import export
from maskrcnn_jax.cli.main import main
from tests.test_export import picture, red_detector

# All of this package that may be imported: reading, calling, pasting and drawing, and nothing of the network.
ALLOWED = set(
    """
    artifact cache captions colors compiler config config_check detector distributed evaluation images jaxlib_errors
    pasting sharding structures video visualize
    cli cli.inputs cli.main cli.memory cli.outputs cli.predict cli.progress
    data data.categories
    weights weights.metadata weights.model_metadata weights.npz weights.zip_records
""".split()
)
FORBIDDEN = {"flax", "grain", "optax", "orbax", "tensorboardX", "tensorflow_datasets", "torch"}  # And of others.
PREDICT = f"""
import sys
from maskrcnn_jax.cli.main import main
code = main(sys.argv[1:])
ours = {{name.removeprefix("maskrcnn_jax.") for name in sys.modules if name.startswith("maskrcnn_jax.")}}
assert "detector" in ours and not ours - {ALLOWED}, ours - {ALLOWED}
others = {{name.partition(".")[0] for name in sys.modules}}
assert "jax" in others and not others & {FORBIDDEN}, others & {FORBIDDEN}
sys.exit(code)
"""


@pytest.fixture
def artifact(tmp_path):
    export.export(red_detector(), tmp_path / "red.npz")
    return tmp_path / "red.npz"


def test_without_flax_and_without_the_code_of_the_model(artifact, tmp_path):
    Image.fromarray(picture(128, 160, (20, 40, 100, 80))).save(tmp_path / "7.png")
    command = ["predict", tmp_path / "7.png", "--artifact", artifact, "--output", tmp_path / "out"]
    environment = os.environ | {"XLA_FLAGS": ""}
    done = subprocess.run([sys.executable, "-c", PREDICT, *command], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert result["category_id"] == 9 and result["image_id"] == 7  # CATEGORIES of the artifact.
    np.testing.assert_allclose(result["bbox"], [20, 40, 80, 40], atol=1e-3)
    with Image.open(tmp_path / "out" / "7.png") as drawn:
        assert drawn.size == (640, 512)


def test_a_broken_artifact_is_one_message(artifact, tmp_path, capsys):
    Image.fromarray(picture(64, 64, (0, 0, 9, 9))).save(tmp_path / "7.png")
    artifact.write_bytes(artifact.read_bytes()[:-100])
    assert main(["predict", str(tmp_path / "7.png"), "--artifact", str(artifact), "--output", str(tmp_path / "o")]) == 2
    error = capsys.readouterr().err
    assert str(artifact) in error and error.count("\n") == 1
