"""Reads and runs an exported detector: one file, which needs JAX and NumPy, but not flax.

The file is a NumPy archive, which `numpy.load` reads too. It has a record
``programs/HEIGHTxWIDTH`` for each size of images, with the bytes of `jax.export`; records
``weights/...`` with the variables of the model by their paths; and JSON with the config of the
model, its categories, and the sizes for resizing images. All programs share the weights, which are
arguments: as constants they would be stored in every program and slow the compiler down.

A program is a function of ``(weights, images, sizes, score_threshold)``:

* ``weights``: ``{name: array}``, all weights of the file by their full names.
* ``images``: ``[b, h, w, c]`` such as RGB, float32 with white at 1 or uint8, resized, zero-padded
  at the bottom and the right.
* ``sizes``: ``[b, 2]`` int32, the height and width of each image without its padding.
* ``score_threshold``: float32; only detections with a higher score are valid.

A program returns a dictionary of ``boxes [b, d, 4]`` (x0, y0, x1, y1 in pixels of the resized
image), ``labels [b, d]``, ``scores [b, d]``, ``valid [b, d]`` (whether a slot holds a detection),
and, if the model has a mask head, ``masks [b, d, m, m]`` (probabilities on a grid over the box).
The detections are sorted by descending score.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.export
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from maskrcnn_jax import execution
from maskrcnn_jax.config import DataConfig, DetectionConfig
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.model_config import ModelConfig
from maskrcnn_jax.structures import Detections
from maskrcnn_jax.weights import model_metadata, npz, zip_records

KEY = "maskrcnn_jax.artifacts.artifact"  # A metadata key that only artifacts have.
PROGRAM = "programs/{}x{}"
WEIGHTS = "weights/"
DTYPES = ("float32", "uint8")
# A program with this name in its bytes would call functions outside of the program.
CALL_OF_THE_HOST = b"custom_call"


class About(NamedTuple):
    """The input format of an artifact's programs, and their origin."""

    batch_size: int  # Number of images that a program takes.
    dtype: str  # The dtype of the images: "float32" or "uint8".
    platforms: tuple[str, ...]  # JAX platforms that the programs can be compiled for.
    jax_version: str  # The version of JAX that exported the programs.

    def to_text(self) -> dict[str, str]:
        """Returns the metadata of the file."""
        return {KEY: json.dumps(self._asdict())}


class Artifact(NamedTuple):
    """The content of an exported file."""

    path: Path
    model: ModelConfig
    detection: DetectionConfig  # Only the score threshold can still be changed.
    data: DataConfig  # Sizes for resizing; each of the ``test_buckets`` has a program.
    categories: Categories
    about: About
    weights: dict[str, np.ndarray]
    programs: dict[tuple[int, int], np.ndarray]  # Bytes of `jax.export` by height and width.


def read(path: str | Path) -> Artifact:
    """Reads an artifact. Nothing is unpickled or run, and sizes are checked before allocation.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged or not an artifact; the message names it and the error.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no exported artifact {path}")
    try:
        with path.open("rb") as file:
            if file.read(4) != b"PK\x03\x04":
                raise ValueError("it is not what `maskrcnn-jax export` writes")
            arrays, text = npz.read(file, zip_records.directory(file))
        return _assemble(path, arrays, text)
    except (ValueError, IsADirectoryError) as error:
        raise ValueError(f"{path} cannot be read as an exported artifact: {error}") from error


def _assemble(path: Path, arrays: Mapping[str, np.ndarray], text: Mapping[str, str]) -> Artifact:
    if KEY not in text:
        raise ValueError(
            "it is an archive of other arrays; weights have to go through `maskrcnn-jax export` "
            "first"
        )
    about = _about(text[KEY])
    config, categories = model_metadata.decode(text)
    if config is None or categories is None:
        raise ValueError("it does not say what its model was")
    programs, missing = {}, []
    for size in config.data.test_buckets:
        programs[size] = arrays.get(PROGRAM.format(*size))
        if programs[size] is None or programs[size].dtype != np.uint8:
            missing.append(size)
    if missing:
        raise ValueError(f"it has no program for images of {missing}")
    weights = {name: array for name, array in arrays.items() if name.startswith(WEIGHTS)}
    return Artifact(
        path, config.model, config.detection, config.data, categories, about, weights, programs
    )


def _about(text: str) -> About:
    try:
        about = About(**json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"its metadata {KEY!r} is broken: {error}") from error
    has_text = isinstance(about.platforms, list) and all(
        isinstance(part, str) for part in (about.jax_version, *about.platforms)
    )
    has_batch = type(about.batch_size) is int and about.batch_size >= 1
    if not (has_text and has_batch and about.dtype in DTYPES):
        raise ValueError(f"its metadata {KEY!r} is broken: {about}")
    return about._replace(platforms=tuple(about.platforms))


class ExportedModel:
    """Replaces the exported `MaskRCNN` in a `Detector`, for images of the exported sizes."""

    def __init__(self, artifact: Artifact) -> None:
        self.config, self.detection = artifact.model, artifact.detection
        self.run = execution.choose()
        self._artifact = artifact

    def apply(
        self,
        variables: dict[str, Any],
        images: Shaped[Array, "b h w c"],
        sizes: Int[Array, "b 2"],
        canvas: Int[Array, "b 2"],
        score_threshold: Float[Array, ""],
    ) -> Detections:
        """Detects objects as `MaskRCNN.apply` does.

        Args:
            variables: The weights of the file by their full names.
            images: Padded images, RGB, of the exported dtype.
            sizes: Height and width of each image without its padding.
            canvas: Unused, because it follows from the sizes.
            score_threshold: Only detections with a higher score are valid.

        Raises:
            ValueError: This version of JAX cannot run the program, the program was not exported for
                this platform, or it calls functions outside of the program.
        """
        program = self.program(images.shape[1:3])
        found = program.call(variables, images, sizes, score_threshold)
        return Detections(
            boxes=found["boxes"],
            classes=found["labels"],
            scores=found["scores"],
            masks=found.get("masks"),
            valid=found["valid"],
        )

    def program(self, size: tuple[int, int]) -> jax.export.Exported:
        """Deserialises the program for a height and width of images; errors as in `apply`."""
        path, about = self._artifact.path, self._artifact.about
        try:
            program = jax.export.deserialize(bytearray(self._artifact.programs[size]))
        except Exception as error:  # JAX does not document the errors of `deserialize`.
            raise ValueError(
                f"jax {jax.__version__} cannot read a program of {path}, which jax "
                f"{about.jax_version} exported: export it again with this version ({error})"
            ) from error
        if CALL_OF_THE_HOST in program.mlir_module_serialized:
            raise ValueError(f"a program of {path} calls functions outside of it, as none of ours")
        return program
