"""Exports a detector to one file, which runs without the model code; see `artifact`."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.export
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Float, Int, Shaped

from maskrcnn_jax import execution
from maskrcnn_jax.artifacts import artifact
from maskrcnn_jax.config import Config
from maskrcnn_jax.weights import files, model_metadata

if TYPE_CHECKING:
    from maskrcnn_jax.detector import Detector

PLATFORMS = ("cpu", "cuda", "tpu")
SUFFIX = ".npz"


def export(
    detector: "Detector",
    path: str | Path,
    *,
    sizes: Sequence[tuple[int, int]] | None = None,
    batch_size: int = 1,
    dtype: str = "float32",
    score_threshold: float | None = None,
    platforms: Sequence[str] = PLATFORMS,
) -> None:
    """Writes a detector as programs and weights. The platforms need not be present.

    Args:
        detector: The detector to export.
        path: The file to write, ending in ``.npz``. An existing file is replaced.
        sizes: Heights and widths of padded images, multiples of 32; by default the detector's
            buckets. Each size has a program of a few hundred kilobytes; the weights are stored
            once.
        batch_size: Number of images that a program takes.
        dtype: The dtype of the images: "float32", with white at 1, or "uint8", which takes a
            quarter of the bytes but rounds resized images to 8 bits.
        score_threshold: The default threshold of the exported detector; by default that of the
            detector.
        platforms: JAX platforms, such as "cpu", "cuda", "rocm" and "tpu".

    Raises:
        ValueError: The suffix is not ``.npz``, a size is not a multiple of 32, or another argument
            is invalid; the message says which.
    """
    path = Path(path)
    sizes = sizes or detector.data.test_buckets
    sizes = sorted({(int(height), int(width)) for height, width in sizes})
    _check(path, sizes, batch_size, dtype)
    if dtype == "uint8" and detector.data.image_dtype != "uint8":
        raise ValueError(
            f"dtype must be float32, since data.image_dtype is {detector.data.image_dtype}"
        )
    model = detector.model.clone(run=execution.choose(portable=True))
    variables = traverse_util.flatten_dict(jax.device_get(detector.variables), sep="/")
    weights = {artifact.WEIGHTS + name: array for name, array in variables.items()}
    programs = {}
    for size in sizes:
        images = jax.ShapeDtypeStruct((batch_size, *size, detector.num_channels), dtype)
        exported = _export(model, weights, images, platforms)
        programs[artifact.PROGRAM.format(*size)] = np.frombuffer(exported.serialize(), np.uint8)
    about = artifact.About(batch_size, dtype, tuple(platforms), jax.__version__)
    described = _describe(detector, sizes, score_threshold)
    files.write(path, programs | weights, described | about.to_text())


def _check(path: Path, sizes: Sequence[tuple[int, int]], batch_size: int, dtype: str) -> None:
    if path.suffix != SUFFIX:
        raise ValueError(f"{path} must end in {SUFFIX}: an artifact is a NumPy archive")
    for height, width in sizes:
        if height < 32 or width < 32 or height % 32 or width % 32:
            nearest = "x".join(str(max(32, round(side / 32) * 32)) for side in (height, width))
            raise ValueError(
                f"height and width must be multiples of 32, got {height}x{width}; "
                f"near it is {nearest}"
            )
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if dtype not in artifact.DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(artifact.DTYPES)}, got {dtype!r}")


def _export(
    model: Any,
    weights: dict[str, np.ndarray],
    images: jax.ShapeDtypeStruct,
    platforms: Sequence[str],
) -> jax.export.Exported:
    sizes = jax.ShapeDtypeStruct((images.shape[0], 2), np.int32)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), weights)
    # Without this, the locations in the program would name source files of this machine.
    limit = jax.config.jax_traceback_in_locations_limit
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        export = jax.export.export(jax.jit(_program(model)), platforms=tuple(platforms))
        exported = export(shapes, images, sizes, jax.ShapeDtypeStruct((), np.float32))
    finally:
        jax.config.update("jax_traceback_in_locations_limit", limit)
    has_calls = artifact.CALL_OF_THE_HOST in exported.mlir_module_serialized
    assert not has_calls, "artifact.read would refuse it"
    return exported


def _program(model: Any) -> Callable[..., dict[str, Array]]:
    """Returns the function of a program, with the interface that `artifact` describes."""

    def detect(
        weights: dict[str, Array],
        images: Shaped[Array, "b h w c"],
        sizes: Int[Array, "b 2"],
        score_threshold: Float[Array, ""],
    ) -> dict[str, Array]:
        flat = {name.removeprefix(artifact.WEIGHTS): x for name, x in weights.items()}
        variables = traverse_util.unflatten_dict(flat, sep="/")
        found = model.apply(variables, images, sizes, None, score_threshold)._asdict()
        found["labels"] = found.pop("classes")
        return {name: array for name, array in found.items() if array is not None}

    return detect


def _describe(
    detector: "Detector", sizes: Sequence[tuple[int, int]], score_threshold: float | None
) -> dict[str, str]:
    """Returns the metadata of the detector, with the sizes and the threshold of the artifact."""
    detection = detector.model.detection
    if score_threshold is not None:
        detection = dataclasses.replace(detection, score_threshold=score_threshold)
    data = dataclasses.replace(detector.data, test_buckets=tuple(sizes))
    config = Config(model=detector.model.config, detection=detection, data=data)
    return model_metadata.encode(config, detector.categories)
