"""Stand-ins for a model, a plan and a cost, which need no compilation; files to refuse."""

import io

import jax.numpy as jnp
import pytest

from maskrcnn_jax import model
from maskrcnn_jax.cli import evaluate
from maskrcnn_jax.cli import plan as plan_module
from maskrcnn_jax.config import Config
from maskrcnn_jax.data.shapes import ShapesDataset
from maskrcnn_jax.planning import chips
from maskrcnn_jax.planning.collectives import Collective
from maskrcnn_jax.planning.cost.cost import Cost
from maskrcnn_jax.planning.cost.launches import Launches
from maskrcnn_jax.planning.cost.schedule import Item, Loop, Price
from maskrcnn_jax.planning.flops import Flops
from maskrcnn_jax.planning.plan import Memory, Plan
from maskrcnn_jax.structures import Detections
from maskrcnn_jax.weights import loading
from maskrcnn_jax.weights.report import Report
from tests.cli import wrong_files as files_to_refuse


class ClosedPipe(io.StringIO):
    """A pipe that nobody reads."""

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


def tiny_config():
    config = Config(test_batch_size=2)
    config.data.source, config.data.shapes_image_size, config.data.shapes_num_val = "shapes", 64, 3
    config.data.test_short_side = config.data.test_max_long_side = 64
    config.data.test_buckets, config.data.max_instances = ((64, 64),), 8
    network = config.model
    network.num_classes, network.backbone.depth = len(ShapesDataset.categories) + 1, 18
    network.fpn.channels = network.mask_head.channels = 8
    network.box_head.features, network.mask_head.num_convs = 16, 1
    network.rpn.num_candidates = network.rpn.num_proposals = 20
    config.detection.num_candidates = config.detection.num_proposals = 20
    config.detection.num_detections, config.detection.score_threshold = 5, 0.0
    return config


class FindsOneBox:
    """Stands in for `MaskRCNN`: detects the upper left quarter of every image as class 1."""

    def __init__(self, config, detection, run):
        self.config, self.detection, self.run = config, detection, run

    def clone(self, run):
        return self

    def apply(self, variables, *arrays, method=None):
        if method == "losses":
            return {name: (jnp.float32(3), jnp.float32(2)) for name in ("first", "second")}, {}
        if method == "features":
            return {2: arrays[0]}
        if method == "draw_masks":
            return self.draw_masks(arrays[1])
        height, width = arrays[1][:, 0], arrays[1][:, 1]
        boxes = jnp.stack([0 * width, 0 * height, width / 2, height / 2], 1)[:, None]
        ones = jnp.ones(boxes.shape[:2])
        has_masks = self.config.mask_head is not None
        masks = jnp.ones((*ones.shape, 28, 28)) if has_masks else None
        return Detections(boxes, ones.astype(int), 0.75 * ones, masks, ones > 0)

    def draw_masks(self, detections):
        return jnp.ones((*detections.valid.shape, 28, 28))


@pytest.fixture
def run_directory(tmp_path, monkeypatch):
    """A run directory to evaluate and predict with, whose model is a stand-in."""
    report = Report("run", None, "a stand-in", {}, 0)
    loaded = loading.LoadedModel(tiny_config(), {}, ShapesDataset.categories, report)
    monkeypatch.setattr(loading, "load", lambda weights: loaded)
    for module in (model, evaluate):
        monkeypatch.setattr(module, "MaskRCNN", FindsOneBox)
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


PLANNED_CONFIG = """
from maskrcnn_jax.config import Config

def get_config():
    return Config(batch_size=8)
"""


@pytest.fixture
def command(tmp_path):
    """The arguments for a config with a batch of eight images, without the devices."""
    (tmp_path / "config.py").write_text(PLANNED_CONFIG)
    return ["plan", "--config", str(tmp_path / "config.py")]


@pytest.fixture
def planned(monkeypatch):
    """Stands in for `make_plan`: collects its arguments, and returns a plan of 3 GiB."""
    calls = []

    def plan(config, devices, bucket, **wanted):
        calls.append((config, devices, bucket, wanted))
        return Plan(
            program=wanted["program"],
            stage=wanted["stage"],
            device="chip",
            num_devices=len(devices),
            mesh={"data": len(devices)},
            bucket=bucket,
            batch_size=config.batch_size,
            trace_seconds=1.0,
            compile_seconds=61.0,
            memory=Memory(2 << 30, 1 << 30, 1 << 30, 1 << 30, 0),
            device_memory=4 << 30,
            flops=8e12,
            traffic=7 << 30,
            model_flops=Flops(10**12, 3 * 10**12),
            collectives=[Collective("all-reduce", 7, 2, 5 << 20)],
            cost=None,
        )

    monkeypatch.setattr(plan_module, "make_plan", plan)
    return calls


@pytest.fixture(scope="session")
def wrong_files(tmp_path_factory):
    """A folder with good files, and a broken file of every kind."""
    folder = tmp_path_factory.mktemp("mistakes")
    files_to_refuse.write(folder)
    return folder


LAUNCHES = Launches(launches=21, graphs=4, in_graphs=55, questions=2, sort_kernels=0)


def cost_on(device_kind):
    """Two instructions of 6 and 2 ms; the first has 0.4 TFLOP."""
    chip = chips.CHIPS[device_kind]
    items = [
        Item("copy.7", "bf16[8,4]{1,0}", "fpn", "modules/fpn.py:65", 2.0, Price("layout", 1e-3)),
        Item("copy-start", "", "rpn", "", 1.0, Price("copy beside the schedule", 0.0)),
        Item("fusion.1", "", "rpn", "", 1.0, Price("product", 6e-3, 9e-3, 4e11, 1e9, 0.0)),
    ]
    launched = None if isinstance(chip, chips.TPU) else LAUNCHES
    return Cost(chip, 8e-3, items, [Loop("ops/nms.py:172", 8)], launched)
