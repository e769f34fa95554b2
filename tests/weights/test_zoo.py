"""Released weights of Detectron2 and MMDetection: addresses, digests, names of other networks."""

import hashlib
import pickle
import re

import pytest

from maskrcnn_jax import presets
from maskrcnn_jax.weights import detectron2, download, loading, reading, zoo
from maskrcnn_jax.xla import cache
from tests.weights.families import reduced, state_of
from tests.weights.test_download import server  # noqa: F401  (a fixture)

NAMES = [prefix + config for prefix, table in zoo.PREFIXES.items() for config in table]


@pytest.mark.parametrize("name", NAMES)
def test_each_name_has_an_address_and_a_digest(name):
    release = zoo.release(name)
    algorithm, digits = ("md5", 6) if name.startswith("detectron2:") else ("sha256", 8)
    assert release.algorithm == algorithm
    assert re.fullmatch(rf"[0-9a-f]{{{digits}}}", release.digest_start)
    assert release.digest_start in release.path and release.digest_start in release.file_name
    assert release.base.startswith("https://") and release.base.endswith("/")
    assert "{" not in release.path and not release.path.startswith("/")


def test_known_addresses():
    release = zoo.release("detectron2:mask_rcnn_R_50_FPN_3x")
    assert release.path == (
        "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217.pkl"
    )
    release = zoo.release("mmdet:mask-rcnn_r50_fpn_1x_coco")
    assert release.path == (
        "mask_rcnn/mask_rcnn_r50_fpn_1x_coco/mask_rcnn_r50_fpn_1x_coco_20200205-d4b0c5d6.pth"
    )
    assert len({zoo.release(name).file_name for name in NAMES}) == len(NAMES)


@pytest.mark.parametrize(
    "name, kind",
    [
        ("mmdet:faster-rcnn_r50-caffe-dc5_1x_coco", "a DC5 network"),
        ("detectron2:cascade_mask_rcnn_X_152_32x8d_FPN_IN5k_gn_dconv", "a Cascade R-CNN"),
        ("detectron2:mask_rcnn_R_50_FPN_3x_dconv_c3-c5", "deformable"),
        ("detectron2:mask_rcnn_regnetx_4gf_dds_FPN_100ep_LSJ", "a RegNet"),
        ("mmdet:mask-rcnn_r50-caffe-c4_1x_coco", "a C4 network"),
        ("mmdet:", "not known"),
    ],
)
def test_other_networks_are_named_before_a_download(name, kind):
    with pytest.raises(ValueError, match=f"{name} is.*{kind}.*the names are .*{NAMES[0]}|mmdet:"):
        zoo.release(name)


@pytest.fixture
def small_release(server, monkeypatch):  # noqa: F811
    """A small file behind a name of Detectron2's model zoo."""
    state = state_of(detectron2, reduced(presets.detectron2_r50_fpn(4)))
    server.content = pickle.dumps({"model": state, "__author__": "Detectron2 Model Zoo"}, 2)
    digits = hashlib.md5(server.content).hexdigest()[:6]
    path = f"COCO-InstanceSegmentation/{{}}/1/model_final_{digits}.pkl"
    monkeypatch.setitem(zoo.DETECTRON2, "mask_rcnn_R_50_FPN_3x", path)
    return server, digits


def test_a_released_file_is_downloaded_once_and_checked(small_release):
    server, digits = small_release  # noqa: F811
    name = "detectron2:mask_rcnn_R_50_FPN_3x"
    loaded = loading.load(name)
    assert loaded.config.model.num_classes == 4 and "rules of Detectron2" in str(loaded.report)
    path = cache.folder() / f"detectron2-mask_rcnn_R_50_FPN_3x-{digits}.pkl"
    assert path.read_bytes() == server.content
    server.fault = "500"
    loading.load(name)
    assert server.ranges == [None]
    path.write_bytes(server.content[:-1])
    with pytest.raises(OSError, match=f"is damaged: its md5 is .*, not {digits}"):
        loading.load(name)


def test_wrong_content_is_refused(small_release):
    server, digits = small_release  # noqa: F811
    server.content = b"something else"
    with pytest.raises(OSError, match=f"md5 of the content is .*, not {digits}.*deleted"):
        loading.load("detectron2:mask_rcnn_R_50_FPN_3x")


def test_mmdetections_files_are_checked_by_sha256(server, monkeypatch):  # noqa: F811
    digits = hashlib.sha256(server.content).hexdigest()[:8]
    end = f"20200101-{digits}"
    monkeypatch.setitem(zoo.MMDET, "mask-rcnn_r50_fpn_1x_coco", ("mask_rcnn/folder", end))
    path = download.fetch_release(zoo.release("mmdet:mask-rcnn_r50_fpn_1x_coco"))
    assert path.name == f"folder_{end}.pth" and path.read_bytes() == server.content


def test_names_without_a_family_are_paths():
    assert not reading.is_released("mask_rcnn_R_50_FPN_3x") and reading.is_released("COCO_V1")
    with pytest.raises(FileNotFoundError, match="there is no weight file"):
        loading.load("detectron:mask_rcnn_R_50_FPN_3x")
