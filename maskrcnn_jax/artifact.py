"""Running a detector that `export` wrote: one file, with jax and NumPy, and without flax or any code of the model.

The file is a NumPy archive, which `numpy.load` reads too: a record ``programs/HEIGHTxWIDTH`` for each size of images,
the bytes of `jax.export`; ``weights/...``, the model's variables by their paths, which all programs share; and JSON
with what the model was, what its labels mean and how to prepare images. Weights are arguments of a program, since
constants in it would be kept by each of them, and make the compiler slow.

A program is a function of ``(weights, images, sizes, score_threshold)``:

* ``weights``: ``{name: array}``, all of the file's, by their full names.
* ``images``: ``[b, h, w, 3]`` RGB, float32 in [0, 1] or uint8, resized, at the top left of zeros.
* ``sizes``: ``[b, 2]`` int32, the height and width of each image without its padding.
* ``score_threshold``: a float32; detections score above it.

It returns a dictionary of ``boxes [b, d, 4]`` (x0, y0, x1, y1 in pixels of the resized image), ``labels [b, d]``,
``scores [b, d]``, ``masks [b, d, m, m]`` (probabilities on a grid over the box) and ``valid [b, d]``: which slots hold
a detection. They come by descending score.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.export
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from maskrcnn_jax.config import DataConfig, ModelConfig
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.structures import Detections
from maskrcnn_jax.weights import model_metadata, npz, zip_records

KEY = "maskrcnn_jax.artifact"  # Of the metadata; no other file of ours has it.
PROGRAM = "programs/{}x{}"
WEIGHTS = "weights/"
DTYPES = ("float32", "uint8")
# How the bytes of a program would name a call of a function outside of it.
CALL_OF_THE_HOST = b"custom_call"


class About(NamedTuple):
    """How an artifact is used, and where it came from."""

    batch_size: int  # Images that a program takes at once.
    dtype: str  # Of the images: "float32" or "uint8".
    platforms: tuple[str, ...]  # What the programs may be compiled for, in jax's words.
    jax_version: str  # That exported them.

    def to_text(self) -> dict[str, str]:
        """The metadata that say so, for the file."""
        return {KEY: json.dumps(self._asdict())}


class Artifact(NamedTuple):
    """What the file holds."""

    path: Path
    model: ModelConfig  # Of the network that was exported.
    data: DataConfig  # How it resizes; ``test_buckets`` are the sizes that there is a program for.
    categories: Categories
    about: About
    weights: dict[str, np.ndarray]
    programs: dict[tuple[int, int], np.ndarray]  # By height and width: the bytes of `jax.export`.


def read(path: str | Path) -> Artifact:
    """Reads an artifact. Nothing in it is unpickled or run, and sizes it declares are compared with its bytes first.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is something else, or damaged; the message names it and says what was found.
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
        raise ValueError("it is an archive of other arrays; weights have to go through `maskrcnn-jax export` first")
    about = _about(text[KEY])
    config, categories = model_metadata.decode(text)
    if config is None or categories is None:
        raise ValueError("it does not say what its model was")
    programs = {size: arrays.get(PROGRAM.format(*size)) for size in config.data.test_buckets}
    missing = [size for size, program in programs.items() if program is None or program.dtype != np.uint8]
    if missing:
        raise ValueError(f"it has no program for images of {missing}")
    weights = {name: array for name, array in arrays.items() if name.startswith(WEIGHTS)}
    return Artifact(path, config.model, config.data, categories, about, weights, programs)


def _about(text: str) -> About:
    try:
        about = About(**json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"its metadata {KEY!r} is broken: {error}") from error
    plain = isinstance(about.platforms, list) and all(
        isinstance(part, str) for part in (about.jax_version, *about.platforms)
    )
    if not plain or type(about.batch_size) is not int or about.batch_size < 1 or about.dtype not in DTYPES:
        raise ValueError(f"its metadata {KEY!r} is broken: {about}")
    return about._replace(platforms=tuple(about.platforms))


class ExportedModel:
    """Stands in for the `MaskRCNN` that was exported, where images are of the sizes and number it was exported for."""

    def __init__(self, artifact: Artifact) -> None:
        self.config = artifact.model
        self._artifact = artifact

    def apply(
        self,
        variables: dict[str, Any],
        images: Shaped[Array, "b h w 3"],
        sizes: Int[Array, "b 2"],
        canvas: Int[Array, "b 2"],
        score_threshold: Float[Array, ""],
    ) -> Detections:
        """What `MaskRCNN.apply` does; variables are the weights of the file, and the canvas follows from the sizes.

        Raises:
            ValueError: The program cannot be run by this version of jax, or on this platform, or is not safe to.
        """
        program = self.program(images.shape[1:3])
        found = program.call(variables, images, sizes, score_threshold)
        return Detections(found["boxes"], found["labels"], found["scores"], found["masks"], found["valid"])

    def program(self, size: tuple[int, int]) -> jax.export.Exported:
        """The program for images of this height and width. Errors as in `apply`; KeyError where there is none."""
        path, about = self._artifact.path, self._artifact.about
        try:
            program = jax.export.deserialize(bytearray(self._artifact.programs[size]))
        except Exception as error:  # Whatever the reader stumbles over: there is no list of what it raises.
            message = f"jax {jax.__version__} cannot read a program of {path}, which jax {about.jax_version} exported"
            raise ValueError(f"{message}: export it again with this version ({error})") from error
        if CALL_OF_THE_HOST in program.mlir_module_serialized:
            raise ValueError(f"a program of {path} calls functions outside of it, which none of ours does")
        return program
