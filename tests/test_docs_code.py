"""Runs the Python code of each page from top to bottom, as written.

A local server gives out small random weights under the names of the released weights. Blocks may
use these, `photo.jpg` and `slide.tif`, and `image`, the pixels of both. A block that needs more has
a hidden comment above, ``<!-- not run: REASON -->``.
"""

import dataclasses
import hashlib
import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import jax
import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax import (
    model,
    presets,
    torchvision_models,  # noqa: F401  Its annotations need `MaskRCNN` as it is.
)
from maskrcnn_jax.config import DetectionConfig
from maskrcnn_jax.data import shapes
from maskrcnn_jax.execution import Execution
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.weights import download, files, torchvision
from tests import markdown
from tests.conftest import QUICK_COMPILE
from tests.markdown import PAGES, ROOT
from tests.weights.states import small

README, DETECT = ROOT / "README.md", ROOT / "docs" / "detect.md"
FUNCTION = "maskrcnn_resnet50_fpn"


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Serves a file of random weights under the address and the name of the released file."""
    folder = tmp_path / "server"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as server:
        server.daemon_threads = False
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
        thread.start()

        def serve(state):
            files.write(folder / "weights.pth", state)
            name = f"{FUNCTION}_coco-{files.sha256(folder / 'weights.pth')[:8]}.pth"
            (folder / "weights.pth").rename(folder / name)
            monkeypatch.setitem(download.DETECTORS, FUNCTION, name)

        monkeypatch.setenv("MASKRCNN_JAX_DOWNLOAD_URL", f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setenv("MASKRCNN_JAX_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("no_proxy", "*")
        yield serve
        server.shutdown()
        thread.join()


def random_state(config):
    """Small random weights, with a bias for scores high enough for detections."""
    random = np.random.default_rng(0)
    state = {}
    for entry in torchvision.entries(config):
        array = random.standard_normal(entry.shape, np.float32) * np.float32(0.02)
        state[entry.name] = np.abs(array) + 1 if entry.name.endswith("running_var") else array
    state["roi_heads.box_predictor.cls_score.bias"][:] = [0, *[5] * (config.num_classes - 1)]
    state["roi_heads.box_predictor.cls_score.bias"][7:] = -5
    return state


def python_blocks(page):
    return [
        block for block in markdown.blocks(page.read_text()) if block.language in ("python", "py")
    ]


def run_page(page, folder, monkeypatch):
    """Runs the code of a page beside the image that it reads; returns the defined names."""
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    for name in ("photo.jpg", "slide.tif"):
        Image.fromarray(image).save(folder / name)
    monkeypatch.chdir(folder)
    names: dict = {"image": image}
    for block in python_blocks(page):
        if block.reason is None:
            code = "\n" * block.line + block.code  # Makes errors report the line of the page.
            exec(compile(code, str(page), "exec"), names)
    return names


def check_detections(names, cache):
    for prediction in names["prediction"], names["predictions"][0]:
        num_found = len(prediction["boxes"])
        assert num_found > 0 and prediction["masks"].shape == (num_found, 1, 60, 80)
        assert (
            prediction["masks"].dtype == np.float32 and (np.diff(prediction["scores"]) <= 0).all()
        )
        assert set(prediction["labels"].tolist()) <= set(range(1, 7))
    assert names["drawn"].shape == (60, 80, 3) and (names["drawn"] != names["image"]).any()
    detector = names["detector"]
    assert detector.categories.name(6) == "bus" and len(detector.categories) == 90
    # The eps of the released file, whose name this file has.
    assert detector.model.config.backbone.norm_eps == 0
    (path,) = cache.glob("*.pth")
    assert hashlib.sha256(path.read_bytes()).hexdigest().startswith(path.stem[-8:])


@pytest.fixture
def small_model(serve, monkeypatch):
    build = presets.maskrcnn_resnet50_fpn

    def make(num_classes=91):
        config = small(build(num_classes))
        config.mask_head.channels = 8
        return config

    def few_slots(config, detection=None, run=Execution()):  # noqa: B008
        slots = {"num_candidates": 20, "num_proposals": 20, "num_detections": 10}
        return MaskRCNN(config, dataclasses.replace(detection or DetectionConfig(), **slots), run)

    monkeypatch.setitem(presets.PRESETS, FUNCTION, make)
    monkeypatch.setattr(model, "MaskRCNN", few_slots)
    quick = partial(jax.jit, compiler_options=QUICK_COMPILE)
    monkeypatch.setattr(Execution, "jit", lambda self, function, **options: quick(function))
    serve(random_state(make()))


def test_the_readme_shows_the_first_lines_of_the_page_on_detection():
    (block,) = python_blocks(README)
    assert block.code == python_blocks(DETECT)[0].code


def test_the_page_on_detection_on_a_small_model(small_model, tmp_path, monkeypatch):
    check_detections(run_page(DETECT, tmp_path, monkeypatch), tmp_path / "cache")


@pytest.mark.parametrize(
    "page",
    [
        page
        for page in PAGES
        if page not in (README, DETECT)
        and any(block.reason is None for block in python_blocks(page))
    ],
    ids=lambda page: page.stem,
)
def test_other_pages_on_a_small_model(page, small_model, tmp_path, monkeypatch):
    run_page(page, tmp_path, monkeypatch)


@pytest.mark.slow
def test_the_page_on_detection_as_it_is(serve, tmp_path, monkeypatch):
    serve(random_state(presets.maskrcnn_resnet50_fpn()))
    check_detections(run_page(DETECT, tmp_path, monkeypatch), tmp_path / "cache")


NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))


@pytest.fixture
def photographs(tmp_path):
    """Eighteen annotated images in the folder, as the notebook about them expects.

    They are wider than tall, so that one bucket holds them all.
    """
    dataset = shapes.ShapesDataset(80, 96, 0)
    (tmp_path / "photos").mkdir()
    content = dataset.annotations()
    wide = [i for i, image in enumerate(content["images"]) if image["width"] > image["height"]]
    for i in wide[:18]:
        image = content["images"][i]
        image["file_name"] = f"{image['id']}.png"
        Image.fromarray(dataset[i].image).save(tmp_path / "photos" / image["file_name"])
    content["images"] = [content["images"][i] for i in wide[:18]]
    known = {image["id"] for image in content["images"]}
    content["annotations"] = [x for x in content["annotations"] if x["image_id"] in known]
    (tmp_path / "annotations.json").write_text(json.dumps(content))


@pytest.mark.notebooks
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook(path, request, photographs, tmp_path, monkeypatch):
    monkeypatch.setenv("STEPS", "2")
    compiled = {"compiler_options": QUICK_COMPILE}
    monkeypatch.setattr(
        Execution, "jit", lambda self, function, **options: jax.jit(function, **compiled, **options)
    )
    if path.stem.endswith("other_libraries"):  # They have no files of small models.
        request.getfixturevalue("serve")(random_state(presets.maskrcnn_resnet50_fpn()))
    elif not path.stem.endswith("research"):  # It builds a small model itself.
        request.getfixturevalue("small_model")
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    exec(compile(path.read_text(), str(path), "exec"), {"__name__": "__main__"})


def test_notebooks_are_kept_as_text_without_outputs():
    assert len(NOTEBOOKS) == 4
    assert [path for path in NOTEBOOKS[0].parent.iterdir() if path.suffix == ".ipynb"] == []
    for path in NOTEBOOKS:
        lines = path.read_text().splitlines()
        assert "format_name: percent" in lines[4] and "# %% [markdown]" in lines and "# %%" in lines
