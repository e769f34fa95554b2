"""The Python that pages show, run as it is written, from the top of a page to its end.

Released weights are a file of small random ones that a server on this machine gives out under their name. A block that
needs more than that, `photo.jpg` and `image` (what was read from it), says so in a comment above it, which is not
rendered: ``<!-- not run: REASON -->``.
"""

import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import jax
import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax.weights import architecture, download, files, torchvision
from tests import markdown
from tests.conftest import QUICK_COMPILE
from tests.markdown import PAGES, ROOT

README = ROOT / "README.md"
FUNCTION = "maskrcnn_resnet50_fpn"


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Serves a file of random weights under the address and name of the released one."""
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
    """Small random weights, and the scores of all classes but the background high enough for detections."""
    random = np.random.default_rng(0)
    state = {}
    for entry in torchvision.entries(config):
        array = random.standard_normal(entry.shape, np.float32) * np.float32(0.02)
        state[entry.name] = np.abs(array) + 1 if entry.name.endswith("running_var") else array
    state["roi_heads.box_predictor.cls_score.bias"][:] = [0, *[5] * (config.num_classes - 1)]
    state["roi_heads.box_predictor.cls_score.bias"][7:] = -5
    return state


def python_blocks(page):
    return [block for block in markdown.blocks(page.read_text()) if block.language in ("python", "py")]


def run_page(page, folder, monkeypatch):
    """Runs what can be run, with the picture it reads beside it, and returns what it defines."""
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    Image.fromarray(image).save(folder / "photo.jpg")
    monkeypatch.chdir(folder)
    names: dict = {"image": image}
    for block in python_blocks(page):
        if block.reason is None:
            code = "\n" * block.line + block.code  # Errors are reported with the line of the page.
            exec(compile(code, str(page), "exec"), names)
    return names


def check_readme(names, cache):
    for prediction in names["prediction"], names["predictions"][0]:
        num_found = len(prediction["boxes"])
        assert num_found > 0 and prediction["masks"].shape == (num_found, 1, 60, 80)
        assert prediction["masks"].dtype == np.float32 and (np.diff(prediction["scores"]) <= 0).all()
        assert set(prediction["labels"].tolist()) <= set(range(1, 7))
    assert names["picture"].shape == (60, 80, 3) and (names["picture"] != names["image"]).any()
    detector = names["detector"]
    assert detector.categories.name(6) == "bus" and len(detector.categories) == 90
    assert detector.model.config.norm_eps == 0  # As of the released file, which the name table says this is.
    (path,) = cache.glob("*.pth")
    assert hashlib.sha256(path.read_bytes()).hexdigest().startswith(path.stem[-8:])


@pytest.fixture
def small_model(serve, monkeypatch):
    v1 = architecture.v1

    def small(num_classes):
        config = v1(num_classes)
        config.depth, config.stem_channels, config.fpn_channels, config.box_head_features = 18, 4, 8, 16
        config.mask_head_channels, config.detection.num_detections = 8, 10
        config.rpn.test_num_candidates = config.rpn.test_num_proposals = 20
        return config

    monkeypatch.setitem(architecture.BUILDERS, FUNCTION, small)
    monkeypatch.setattr(jax, "jit", partial(jax.jit, compiler_options=QUICK_COMPILE))
    serve(random_state(small(91)))


def test_the_readme_on_a_small_model(small_model, tmp_path, monkeypatch):
    check_readme(run_page(README, tmp_path, monkeypatch), tmp_path / "cache")


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page != README and any(block.reason is None for block in python_blocks(page))],
    ids=lambda page: page.stem,
)
def test_other_pages_on_a_small_model(page, small_model, tmp_path, monkeypatch):
    run_page(page, tmp_path, monkeypatch)


@pytest.mark.slow
def test_the_readme_as_it_is(serve, tmp_path, monkeypatch):
    serve(random_state(architecture.v1(91)))
    check_readme(run_page(README, tmp_path, monkeypatch), tmp_path / "cache")
