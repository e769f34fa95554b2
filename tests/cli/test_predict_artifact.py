"""`maskrcnn-jax predict --artifact` in a new process, since the test checks the imports."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax.artifacts import export
from maskrcnn_jax.cli.main import main
from tests.artifacts.test_export import red_detector, red_image

# The modules of this package that may be imported: reading, calling, pasting and drawing, but not
# the network.
ALLOWED = set(
    """
    artifacts artifacts.artifact cli cli.arguments cli.arguments.checks cli.arguments.common
    cli.arguments.data cli.arguments.detection cli.arguments.models cli.arguments.types cli.console
    cli.formats cli.ignored_errors cli.inputs cli.interrupts cli.main
    cli.memory cli.outputs cli.predict cli.predictions cli.progress cli.streams coco_metrics
    config config_check data data.annotation_files data.annotations data.categories
    data.checks data.clipping data.dataset data.findings data.image_entries data.lvis data.outlines
    data.rle data.tracing data.values detector detector_inputs distributed drawing drawing.captions
    drawing.channels drawing.colors drawing.fonts drawing.patches evaluation execution
    image_files image_files.bands image_files.headers image_files.npy image_files.once
    image_files.pillow image_files.tiff images model_config ops ops.rounding pasting resizing
    settings
    sharding structures video visualize weights weights.metadata weights.model_metadata
    weights.npz weights.zip_records whole_files xla xla.cache xla.compiler xla.jaxlib_errors
""".split()
)
# The packages that must not be imported.
FORBIDDEN = {
    "flax",
    "grain",
    "optax",
    "orbax",
    "tensorboardX",
    "tensorflow_datasets",
    "torch",
}
PREDICT = f"""
import sys
from maskrcnn_jax.cli.main import main
code = main(sys.argv[1:])
prefix = "maskrcnn_jax."
ours = {{name.removeprefix(prefix) for name in sys.modules if name.startswith(prefix)}}
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
    Image.fromarray(red_image(128, 160, (20, 40, 100, 80))).save(tmp_path / "7.png")
    command = ["predict", tmp_path / "7.png", "--artifact", artifact, "--output", tmp_path / "out"]
    environment = os.environ | {"XLA_FLAGS": ""}
    done = subprocess.run(
        [sys.executable, "-c", PREDICT, *command], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (result,) = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert result["category_id"] == 9 and result["image_id"] == 7  # An id of CATEGORIES.
    np.testing.assert_allclose(result["bbox"], [20, 40, 80, 40], atol=1e-3)
    with Image.open(tmp_path / "out" / "7.png") as drawn:
        assert drawn.size == (640, 512)


def test_a_broken_artifact_is_one_message(artifact, tmp_path, capsys):
    Image.fromarray(red_image(64, 64, (0, 0, 9, 9))).save(tmp_path / "7.png")
    artifact.write_bytes(artifact.read_bytes()[:-100])
    assert (
        main(
            [
                "predict",
                str(tmp_path / "7.png"),
                "--artifact",
                str(artifact),
                "--output",
                str(tmp_path / "o"),
            ]
        )
        == 2
    )
    error = capsys.readouterr().err
    assert str(artifact) in error and error.count("\n") == 1
