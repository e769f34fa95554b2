"""Files that the commands refuse, and some good ones beside them."""

import json

import numpy as np
from PIL import Image

SQUARE = {"category_id": 1, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0}
SQUARE["segmentation"] = [[5, 5, 25, 5, 25, 25, 5, 25]]

CONFIG = """
from maskrcnn_jax.config import Config

def get_config():
    config = Config(num_steps=1, batch_size=1, test_batch_size=1)
    config.data.train_images = config.data.val_images = {images!r}
    config.data.train_annotations = config.data.val_annotations = {annotations!r}
    config.data.num_threads, config.model.num_classes = 1, 2
    config.execution.num_devices = 1
    config.data.test_short_side = config.data.test_max_long_side = 64
    config.data.test_buckets = ((64, 64),)
    return config
"""


def write(folder):
    """Writes good files, and a broken file of every kind."""
    for name in (
        "in",
        "cut",
        "empty",
        "broken_run/checkpoints",
        "old_run/checkpoints",
        "bare_run/checkpoints",
    ):
        (folder / name).mkdir(parents=True)
    for name in ("a", "b"):
        pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "in" / f"{name}.png")
        content = (folder / "in" / f"{name}.png").read_bytes()
        (folder / "cut" / f"{name}.png").write_bytes(content[:2000])
    for name in ("text.txt", "text.pth", "text.npz", "text.safetensors"):
        (folder / name).write_text("no such thing")
    np.savez(folder / "other.npz", a=np.zeros(3))
    write_annotations(folder)
    write_configs(folder)
    (folder / "broken_run" / "config.json").write_text('{"model": ')
    (folder / "broken_run" / "categories.json").write_text("[]")
    (folder / "old_run" / "config.json").write_text('{"model": {"dpeth": 18}}')
    (folder / "old_run" / "categories.json").write_text("[]")
    (folder / "bare_run" / "config.json").write_text("{}")


def write_annotations(folder):
    images = [
        {"id": i, "file_name": f"{name}.png", "height": 40, "width": 60}
        for i, name in enumerate("ab", 1)
    ]
    objects = [SQUARE | {"id": i, "image_id": i} for i in (1, 2)]
    good = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "disc"}]}
    files = {
        "good": good,
        "unmasked": good
        | {"annotations": [{k: v for k, v in objects[0].items() if k != "segmentation"}]},
        "uncategorised": good | {"categories": [], "annotations": []},
        "empty": good | {"images": [], "annotations": []},
        "renamed": good | {"categories": [{"id": 1, "name": "apple"}]},
        "lvis": with_some_fields_of_lvis(good),
        "list": [],
    }
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "broken.json").write_text('{"images": [')


def with_some_fields_of_lvis(content):
    """The second image lacks one."""
    fields = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    first, second = (image | fields for image in content["images"])
    second.pop("neg_category_ids")
    return content | {"images": [first, second]}


def write_configs(folder):
    def config(images="in", annotations="good"):
        return CONFIG.format(
            images=str(folder / images), annotations=str(folder / f"{annotations}.json")
        )

    files = {
        "good": config(),
        "cut": config("cut"),
        "renamed": config(annotations="renamed"),
        "absent": config(annotations="nowhere"),
        "lvis": config(annotations="lvis"),
        "empty_set": config().replace(
            "return config",
            f"image_folder, good = {str(folder / 'in')!r}, {str(folder / 'good.json')!r}\n"
            f"    empty = {str(folder / 'empty.json')!r}\n"
            "    config.data.train = ((image_folder, good, 1.0), (image_folder, empty, 3.0))\n"
            "    return config",
        ),
        "syntax": "def get_config(:\n",
        "name": "def get_config():\n    return Cofnig()\n",
        "package": "import no_such_package\n",
        "nothing": "def get_config():\n    pass\n",
        "function": "config = 1\n",
        "field": "from maskrcnn_jax.config import Config\n\n"
        "def get_config():\n    return Config(modle=1)\n",
        "value": config().replace("return config", "config.batch_size = 'two'\n    return config"),
    }
    for name, content in files.items():
        (folder / f"{name}.py").write_text(content)
