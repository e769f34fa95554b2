"""Writing a detector to one file that runs without this package's model code: see `artifact`."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.export
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Float, Int, Shaped

from maskrcnn_jax import artifact
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
    """Writes a detector as programs and weights, for all platforms at once; none of them needs to be at hand.

    Args:
        detector: What to export.
        path: Where to, ending in ``.npz``. A file that is there is replaced.
        sizes: Heights and widths of padded images, multiples of 32; by default the detector's buckets. There is a
            program for each, of a few hundred kilobytes, and one copy of the weights.
        batch_size: Images that a program takes at once.
        dtype: Of these images: "float32" in [0, 1], or "uint8", a quarter of the bytes, but rounded to grey levels.
        score_threshold: What detections must score above where the caller does not say; by default the detector's.
        platforms: Any of jax's, such as "cpu", "cuda", "rocm" and "tpu".

    Raises:
        ValueError: Another suffix, a size that is no multiple of 32, or another argument that cannot be; the message
            says which.
    """
    path = Path(path)
    sizes = sorted({(int(height), int(width)) for height, width in sizes or detector.data.test_buckets})
    _check(path, sizes, batch_size, dtype)
    variables = traverse_util.flatten_dict(jax.device_get(detector.variables), sep="/")
    weights = {artifact.WEIGHTS + name: array for name, array in variables.items()}
    programs = {}
    for size in sizes:
        images = jax.ShapeDtypeStruct((batch_size, *size, 3), dtype)
        exported = _export(detector.model, weights, images, platforms)
        programs[artifact.PROGRAM.format(*size)] = np.frombuffer(exported.serialize(), np.uint8)
    about = artifact.About(batch_size, dtype, tuple(platforms), jax.__version__)
    files.write(path, programs | weights, _describe(detector, sizes, score_threshold) | about.to_text())


def _check(path: Path, sizes: Sequence[tuple[int, int]], batch_size: int, dtype: str) -> None:
    if path.suffix != SUFFIX:
        raise ValueError(f"{path} must end in {SUFFIX}: an artifact is a NumPy archive")
    for height, width in sizes:
        if height < 32 or width < 32 or height % 32 or width % 32:
            nearest = "x".join(str(max(32, round(side / 32) * 32)) for side in (height, width))
            raise ValueError(f"height and width must be multiples of 32, got {height}x{width}; near it is {nearest}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if dtype not in artifact.DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(artifact.DTYPES)}, got {dtype!r}")


def _export(
    model: Any, weights: dict[str, np.ndarray], images: jax.ShapeDtypeStruct, platforms: Sequence[str]
) -> jax.export.Exported:
    sizes = jax.ShapeDtypeStruct((images.shape[0], 2), np.int32)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), weights)
    # Else the program would name the files on this machine that its operations come from.
    limit = jax.config.jax_traceback_in_locations_limit
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        export = jax.export.export(jax.jit(_program(model)), platforms=tuple(platforms))
        exported = export(shapes, images, sizes, jax.ShapeDtypeStruct((), np.float32))
    finally:
        jax.config.update("jax_traceback_in_locations_limit", limit)
    assert artifact.CALL_OF_THE_HOST not in exported.mlir_module_serialized, "artifact.read would refuse it"
    return exported


def _program(model: Any) -> Callable[..., dict[str, Array]]:
    """The function that `artifact` describes."""

    def detect(
        weights: dict[str, Array],
        images: Shaped[Array, "b h w 3"],
        sizes: Int[Array, "b 2"],
        score_threshold: Float[Array, ""],
    ) -> dict[str, Array]:
        variables = {name.removeprefix(artifact.WEIGHTS): array for name, array in weights.items()}
        variables = traverse_util.unflatten_dict(variables, sep="/")
        found = model.apply(variables, images, sizes, None, score_threshold)._asdict()
        return {"labels" if name == "classes" else name: array for name, array in found.items()}

    return detect


def _describe(detector: "Detector", sizes: Sequence[tuple[int, int]], score_threshold: float | None) -> dict[str, str]:
    """The metadata of the detector's weights, with what is different in the artifact."""
    model = detector.model.config
    if score_threshold is not None:
        model = dataclasses.replace(
            model, detection=dataclasses.replace(model.detection, score_threshold=score_threshold)
        )
    data = dataclasses.replace(detector.data, test_buckets=tuple(sizes))
    return model_metadata.encode(model_metadata.Config(model=model, data=data), detector.categories)
