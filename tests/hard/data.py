"""Image files that vanish or change while a run trains are named."""

import json
from pathlib import Path

from PIL import Image

from maskrcnn_jax.data.shapes import ShapesDataset
from tests.hard.runs import finish, log_of, newest, start, wait_for

NUM_IMAGES = 12


def write_images(folder: Path, count: int = NUM_IMAGES) -> dict[str, Path | str]:
    """Writes synthetic images with annotations; returns the fields of the config."""
    folder.mkdir()
    shapes = ShapesDataset(count, 64, 0)
    content = shapes.annotations()
    for example, image in zip(shapes, content["images"], strict=True):
        image["file_name"] = f"{example.image_id}.png"
        Image.fromarray(example.image).save(folder / image["file_name"])
    (folder / "annotations.json").write_text(json.dumps(content))
    fields: dict[str, Path | str] = {"data__source": "coco"}
    for split in ("train", "val"):
        fields[f"data__{split}_images"] = folder
        fields[f"data__{split}_annotations"] = folder / "annotations.json"
    return fields


def files_that_go(own: Path, folder: Path) -> str:
    """One file vanishes and one changes; later so many vanish that the run saves and stops."""
    fields = write_images(own / "images") | {"num_steps": 120, "log_every": 10, "save_every": 50}
    paths = sorted((own / "images").glob("*.png"))
    workdir, evaluate = own / "run", {"evaluate_every": 0}
    process = start(workdir, folder, **fields, **evaluate)
    wait_for(lambda: len(log_of(workdir)) >= 1, process)
    paths[0].rename(own / "away.png")
    Image.new("RGB", (64, 64), "red").save(paths[1])
    result = finish(process)
    assert f"there is no file {paths[0].name}" in result.stderr, result.stderr
    assert f"{paths[1]} has changed since the start" in result.stderr, result.stderr
    assert "takes no part in step" in result.stderr
    shares = [entry["missing_images"] for entry in log_of(workdir) if "missing_images" in entry]
    assert 0 < max(shares) < 0.5, shares

    workdir = own / "second"
    (own / "away.png").rename(paths[0])
    process = start(workdir, folder, **fields, **evaluate)
    wait_for(lambda: len(log_of(workdir)) >= 1, process)
    for path in paths[1:]:
        path.rename(path.with_suffix(".away"))
    (own / "images" / "annotations.json").write_text("{}")
    result = finish(process, 2)
    last = result.stderr.splitlines()[-1]
    assert "of the images cannot be read any more: saved after step" in last, result.stderr
    stopped = newest(workdir)
    assert f"saved after step {stopped};" in last
    return last


CASES = {"data files that go": files_that_go}
