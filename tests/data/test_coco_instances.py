"""A COCO json with its images and the records prepared from them give the same data."""

import itertools
import json
import resource
import shutil
import signal
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.data import coco_instances, pipeline, prepared, rle, sources
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.data.coco import CocoDataset
from maskrcnn_jax.data.prepared import PreparedDataset

POLYGON = [3, 4, 20.125, 4.5, 18.1, 19.7, 3.3333333333333335, 17]


def write_images(folder):
    """Writes images of several formats; the first one has an EXIF rotation."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save(
        folder / "turned.jpg", exif=exif
    )
    Image.fromarray(rng.integers(0, 256, (40, 48, 4), np.uint8)).save(folder / "alpha.png")
    Image.fromarray(rng.integers(0, 256, (24, 40), np.uint8)).save(folder / "grey.jpg")
    Image.fromarray(rng.integers(0, 256, (36, 28, 3), np.uint8)).save(folder / "empty.webp")
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / "thin.jpg")
    sizes = {
        "turned.jpg": (40, 30),
        "empty.webp": (36, 28),
        "alpha.png": (40, 48),
        "thin.jpg": (32, 32),
    }
    found = zip((900, 12, 7, 11, -3), (sizes | {"grey.jpg": (24, 40)}).items(), strict=True)
    return [{"id": i, "file_name": name, "height": h, "width": w} for i, (name, (h, w)) in found]


def write_annotations(path, images):
    """Writes all mask formats, a crowd, and boxes that are clamped, dropped and too thin."""
    sides = {entry["id"]: (entry["height"], entry["width"]) for entry in images}
    found = [
        (900, 5, [POLYGON], [3, 4, 17.2, 15.7], 0),
        (900, 2, [POLYGON, [1, 1, 5, 1, 5, 6]], [-2, 1, 22, 18.7], 0),
        (900, 5, {"size": [40, 30], "counts": [0, 1200]}, [0, 0, 30, 40], 1),
        (7, 2, rle.encode([POLYGON], *sides[7]), [3, 4, 17.1, 15.7], 0),
        (7, 5, [POLYGON], [3, 4, 0, 15.7], 0),
        (-3, 9, {"size": [24, 40], "counts": [50, 9, 901]}, [2, 2, 1.5, 9], 0),
        (11, 9, [[1, 1, 2, 1, 2, 30]], [1, 1, 1, 29], 0),
    ]
    annotations = [
        {
            "id": i,
            "image_id": image,
            "category_id": c,
            "segmentation": m,
            "bbox": box,
            "iscrowd": crowd,
            "area": 1.5,
        }
        for i, (image, c, m, box, crowd) in enumerate(found, start=1)
    ]
    categories = [{"id": 9, "name": "cow"}, {"id": 2, "name": "Käfer"}, {"id": 5, "name": "cat"}]
    content = {
        "info": {"year": 2026},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def prepare(source, output, split="train", advance=lambda num_images: None):
    coco_instances.prepare(CocoDataset(*source, keep_empty=True), split, output, advance)


def assert_same_data(source, output, split="train"):
    rules = {"keep_rule": "any", "min_side": 0}, {"keep_rule": "torchvision", "min_side": 30}
    for keep_empty, rule in itertools.product((True, False), ({}, *rules)):
        direct = CocoDataset(*source, keep_empty=keep_empty, **rule)
        records = PreparedDataset(output, split, keep_empty=keep_empty, **rule)
        assert len(records) == len(direct) and records.categories == direct.categories
        for name in ("sizes", "image_ids"):
            ours, theirs = getattr(records, name), getattr(direct, name)
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)
        for index in range(len(direct)) if keep_empty else (0, -1):
            assert_same_example(records[index], direct[index])


def assert_same_example(ours, theirs):
    for name in ("image", "boxes", "classes"):
        a, b = getattr(ours, name), getattr(theirs, name)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(a, b)
    assert ours.image_id == theirs.image_id and type(ours.image_id) is type(theirs.image_id)
    assert json.dumps(ours.masks) == json.dumps(theirs.masks)  # Distinguishes 3 from 3.0.


def assert_same_batches(ours, theirs, number):
    for a, b in itertools.islice(zip(ours, theirs, strict=True), number):
        assert jax.tree.structure(a) == jax.tree.structure(b)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)


def test_both_sources_give_the_same_batches(small, tmp_path):
    prepare(small, tmp_path / "out")
    config = DataConfig(
        short_sides=(40, 56), max_long_side=96, test_short_side=64, test_max_long_side=96
    )
    config.buckets = config.test_buckets = ((64, 96), (96, 64), (96, 96))
    config.max_instances, config.vertical_flip, config.num_threads = 3, 0.5, 2
    ours = PreparedDataset(tmp_path / "out", "train", keep_empty=False)
    theirs = CocoDataset(*small, keep_empty=False)
    batches = [
        pipeline.train_batches(d, config, batch_size=2, seed=3, start_step=5)
        for d in (ours, theirs)
    ]
    assert_same_batches(*batches, number=6)
    assert_same_batches(
        *(pipeline.eval_batches(d, config, batch_size=2) for d in (ours, theirs)), number=9
    )


def test_records_have_the_bytes_of_the_files(small, tmp_path):
    prepare(small, tmp_path / "out")
    builder = tfds.builder_from_directory(prepared.folder(tmp_path / "out", "train"))
    records = builder.as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})
    names = [
        entry["file_name"] for entry in json.loads(small[1].read_text(encoding="utf-8"))["images"]
    ]
    assert [record["image"] for record in records] == [
        (small[0] / name).read_bytes() for name in names
    ]


def test_several_shards_keep_the_order(small, tmp_path, monkeypatch):
    monkeypatch.setattr(coco_instances, "_BYTES_PER_SHARD", 4000)
    prepare(small, tmp_path / "out")
    num_bytes = sum(path.stat().st_size for path in small[0].iterdir())
    assert len(list(tmp_path.glob("out/**/*.array_record*"))) == -(-num_bytes // 4000) > 2
    assert_same_data(small, tmp_path / "out")


def test_finished_work_is_known_by_its_source(small, tmp_path):
    output = tmp_path / "out"
    assert not coco_instances.is_prepared(small[1], "train", output)
    prepare(small, output)
    assert coco_instances.is_prepared(small[1], "train", output)
    assert not coco_instances.is_prepared(small[1], "val", output)
    other = tmp_path / "other.json"
    other.write_bytes(small[1].read_bytes().replace(b"2026", b"2025"))
    with pytest.raises(ValueError, match="another annotation file than .*other.json"):
        coco_instances.is_prepared(other, "train", output)
    with pytest.raises(FileNotFoundError, match="nowhere.json"):
        coco_instances.is_prepared(tmp_path / "nowhere.json", "train", output)
    next(output.glob("**/*.array_record*")).unlink()
    with pytest.raises(ValueError, match="damaged.*array_record"):
        coco_instances.is_prepared(small[1], "train", output)


def test_an_interrupted_attempt_is_nothing_and_leaves_nothing(small, tmp_path):
    output, target = tmp_path / "out", prepared.folder(tmp_path / "out", "train")
    done = []

    def stop_at_the_third(num_images):
        done.append(num_images)
        if len(done) == 3:
            (unfinished,) = target.parent.iterdir()
            # A copy of the files that a killed process would leave.
            shutil.copytree(
                unfinished,
                unfinished.with_name(unfinished.name.replace("incomplete.", "incomplete.X")),
            )
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(small, output, advance=stop_at_the_third)
    assert [path.name[:12] for path in target.parent.iterdir()] == ["incomplete.X"]
    assert not coco_instances.is_prepared(small[1], "train", output)
    prepare(small, output, advance=done.append)
    assert list(target.parent.iterdir()) == [target] and done == [1] * 8
    assert_same_data(small, output)


def test_broken_images_stop_with_their_name_and_id(small, tmp_path):
    content = (small[0] / "thin.jpg").read_bytes()
    (small[0] / "thin.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(OSError, match="image id 11: .*thin.jpg"):
        prepare(small, tmp_path / "out")
    Image.new("RGB", (30, 32)).save(small[0] / "thin.jpg")
    with pytest.raises(ValueError, match=r"thin.jpg \(image id 11\) is 32x30"):
        prepare(small, tmp_path / "out")
    assert not coco_instances.is_prepared(small[1], "train", tmp_path / "out")


def test_a_full_disk_is_an_error_of_the_system(small, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
    try:
        with pytest.raises(OSError, match="cannot write .*File too large"):
            prepare(small, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert not coco_instances.is_prepared(small[1], "train", tmp_path / "out")


def test_a_disk_that_is_full_before_the_work_is_named(small, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(OSError, match=r"cannot write .*out/train/.*: No space left on device"):
        prepare(small, tmp_path / "out")


def test_an_empty_set_is_refused(small, tmp_path):
    small[1].write_text(
        json.dumps({"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]})
    )
    with pytest.raises(ValueError, match="instances.json has no images"):
        prepare(small, tmp_path / "out")


def test_an_experiment_names_either_source(small, tmp_path):
    val = tmp_path / "images", tmp_path / "val.json"
    write_annotations(val[1], json.loads(small[1].read_text(encoding="utf-8"))["images"][::-1])
    for split, source in (("train", small), ("val", val)):
        prepare(source, tmp_path / "out", split)
    direct = DataConfig(train_images=str(small[0]), train_annotations=str(small[1]))
    direct.val_images, direct.val_annotations = map(str, val)
    records = DataConfig(source="tfds", tfds_dir=str(tmp_path / "out"))
    for keep_empty, num_images in ((True, 5), (False, 3)):
        direct.keep_empty = records.keep_empty = keep_empty
        found = sources.open_train(records)
        assert type(found) is PreparedDataset and len(found) == num_images
        assert found.image_ids.tolist() == sources.open_train(direct).image_ids.tolist()
    (found, annotations), (_, expected) = sources.open_val(records), sources.open_val(direct)
    assert found.image_ids.tolist() == [-3, 11, 7, 12, 900] and annotations == expected

    model = Categories((5, 2, 9, 1), ("cat", "Käfer", "cow", "dog"))
    for config in (direct, records):
        assert sources.open_train(config, model).categories == model
        assert sources.open_val(config, model)[0][4].classes.tolist() == [1, 2]
        with pytest.raises(ValueError, match="category 9 'cow' of the data set, which is 'horse'"):
            sources.open_val(config, Categories((5, 2, 9), ("cat", "Käfer", "horse")))


def test_photographs(shared, tmp_path):
    root = shared / "data" / "coco_subset"
    source = root / "val", root / "instances_val.json"
    prepare(source, tmp_path, "val")
    assert_same_data(source, tmp_path, "val")
    sets = (
        PreparedDataset(tmp_path, "val", keep_empty=False),
        CocoDataset(*source, keep_empty=False),
    )
    batches = [
        pipeline.train_batches(d, DataConfig(num_threads=2), batch_size=2, seed=0) for d in sets
    ]
    assert_same_batches(*batches, number=3)
