"""The card of a model on the Hugging Face Hub, written from its training run."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from maskrcnn_jax.config import Config, DataConfig
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.runs import run_directory

KINDS = {"bbox": "boxes", "segm": "masks"}
NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_MOST_NAMES = 100  # Of categories.


def write(
    directory: Path, step: int, repository: str, architecture: str, licence: str | None
) -> str:
    """Writes a card: front matter for the hub, use, results, data, command and licence.

    Of paths in the run only the last part is shown, because strangers read the card.

    Args:
        directory: The run directory.
        step: The step of the weights; the results are those of the last evaluation until then.
        repository: OWNER/NAME on the hub.
        architecture: The network in one line, as `weights.report.describe` has it.
        licence: The identifier of the model's licence on the hub, such as "apache-2.0".

    Raises:
        FileNotFoundError: There is no such run.
        ValueError: A file of the run is broken.
    """
    config, categories = run_directory.read_settings(directory)
    evaluated, numbers = _evaluation(directory / "metrics.jsonl", step)
    front = yaml.safe_dump(
        _front_matter(repository, config, numbers, licence), sort_keys=False, allow_unicode=True
    )
    sections = {
        "Use": _use(repository),
        "Results": _results(evaluated, numbers),
        "Data": f"{_data(config.data)}\n\n{_categories(categories)}",
        "Training": _training(config, step, run_directory.commands(directory)),
        "Licence": licence or "The authors have named none.",
    }
    title = repository.partition("/")[2]
    head = f"---\n{front}---\n\n# {title}\n\n{architecture}, trained with maskrcnn_jax."
    return "\n\n".join([head, *[f"## {name}\n\n{x}" for name, x in sections.items()]]) + "\n"


def _front_matter(
    repository: str, config: Config, numbers: Mapping[str, Any], licence: str | None
) -> dict[str, Any]:
    has_masks = config.model.mask_head is not None
    task = "image-segmentation" if has_masks else "object-detection"
    front: dict[str, Any] = {"library_name": "maskrcnn-jax", "pipeline_tag": task}
    if licence:
        front["license"] = licence
    front["tags"] = ["jax", "mask-rcnn" if has_masks else "faster-rcnn", "object-detection"]
    if has_masks:
        front["tags"].append("instance-segmentation")
    metrics = [
        {"type": f"{kind}_{name.lower()}", "value": round(found[name], 4)}
        for kind, found in numbers.items()
        for name in ("AP", "AP50")
        if _is_known(found.get(name))
    ]
    if metrics:
        data = _name(config.data)
        result = {"task": {"type": task}, "dataset": {"type": data, "name": data}}
        name = repository.partition("/")[2]
        front["model-index"] = [{"name": name, "results": [result | {"metrics": metrics}]}]
    return front


def _use(repository: str) -> str:
    return f"""```
pip install 'maskrcnn-jax[hub]'
```

```python
from maskrcnn_jax import Detector

detector = Detector.from_weights("hf://{repository}")
prediction = detector("photo.jpg")[0]  # boxes, labels, scores, and masks if it has them
```"""


def _evaluation(path: Path, step: int) -> tuple[int | None, dict[str, dict[str, float]]]:
    """The last evaluation in a log until a step: its step and its numbers; None and {} if none."""
    last: dict[str, Any] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        for entry in map(json.loads, lines):
            if "bbox" in entry and entry["step"] <= step:
                last = entry
        return last.get("step"), {kind: dict(last[kind]) for kind in KINDS if kind in last}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is no log of a run: {error!r}") from error


def _is_known(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value >= 0


def _results(step: int | None, numbers: Mapping[str, Mapping[str, float]]) -> str:
    if not numbers:
        return "The run was not evaluated."
    rows = [["", *NUMBERS], ["---"] * (1 + len(NUMBERS))]
    for kind, found in numbers.items():
        rows.append([KINDS[kind], *[_shown(found.get(name)) for name in NUMBERS]])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"COCO's average precision on the validation images, after step {step}:\n\n{table}"


def _shown(value: Any) -> str:
    return f"{value:.3f}" if _is_known(value) else "-"


def _name(data: DataConfig) -> str:
    """A short name of the data."""
    return data.source if data.source != "coco" else _last_part(_train_sets(data)[0][1])


def _train_sets(data: DataConfig) -> list[tuple[str, str]]:
    """The folders of images and the annotation files of the training sets."""
    sets = [(images, annotations) for images, annotations, *_ in data.train]
    return sets or [(data.train_images, data.train_annotations)]


def _data(data: DataConfig) -> str:
    if data.source == "shapes":
        return "Synthetic shapes, which maskrcnn_jax draws."
    if data.source == "tfds":
        return f"`{_last_part(data.tfds_dir)}`, prepared by `maskrcnn-jax data prepare`."
    sets = [("training", *each) for each in _train_sets(data)]
    sets.append(("validation", data.val_images, data.val_annotations))
    return "\n".join(
        f"- {name}: images of `{_last_part(images)}`, annotations of `{_last_part(annotations)}`"
        for name, images, annotations in sets
    )


def _last_part(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2].replace("`", "'")


def _categories(categories: Categories) -> str:
    named = [_as_text(name) for name in categories.names[:_MOST_NAMES]]
    more = "" if len(categories) <= _MOST_NAMES else ", ..."
    return f"{len(categories)} categories: {', '.join(named)}{more}."


def _as_text(name: str) -> str:
    """Escapes what Markdown or HTML would take as markup."""
    plain = " ".join(name.split())
    return re.sub(r"([\\`*_\[\]<>#|&])", r"\\\1", plain)


def _training(config: Config, step: int, commands: Sequence[Sequence[str]]) -> str:
    told = f"{step} of {config.num_steps} steps, each of {config.batch_size} images."
    if not commands:
        return f"{told} The run did not record its command."
    lines = dict.fromkeys(" ".join(map(_without_folders, command)) for command in commands)
    return "\n".join([f"{told}\n\n```", *lines, "```"])


def _without_folders(word: str) -> str:
    """Shortens an absolute path in a word of a command line to its last part, and quotes it."""
    name, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    if value.startswith(("/", "~")):
        value = _last_part(value)
    value = value if re.fullmatch(r"[\w@%+=:,./\[\]-]*", value) else repr(value)
    return f"{name}{equals}{value}".replace("`", "'")
