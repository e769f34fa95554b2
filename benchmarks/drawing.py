"""Contenders that draw 100 detections into an image."""

import numpy as np

from benchmarks import inputs, operators
from benchmarks.contender import Run
from maskrcnn_jax import pasting

SIZE: inputs.Size = (800, 1066)
NAMES = [f"class {i}" for i in range(1, 91)]


def ours() -> Run:
    """Draws tints, outlines, boxes, names and scores with `visualize`."""
    from maskrcnn_jax import visualize

    image, boxes, labels, masks = _detections()
    scores = np.linspace(1, 0.5, len(boxes))
    return lambda: visualize.draw(image, boxes, labels, scores, masks, NAMES)


def torchvision() -> Run:
    """Draws tints, boxes and names with `torchvision.utils`."""
    from maskrcnn_jax.parity import reference  # noqa: F401  (loads torchvision)

    import torch  # isort: skip  (after the reference)
    from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

    image, boxes, labels, masks = _detections()
    tensor, found = torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(masks) > 0.5
    names, corners = [NAMES[label - 1] for label in labels], torch.from_numpy(boxes)

    def run() -> np.ndarray:
        drawn = draw_bounding_boxes(draw_segmentation_masks(tensor, found), corners, names)
        return drawn.permute(1, 2, 0).numpy()

    return run


def compare(theirs: np.ndarray, ours: np.ndarray) -> str:
    """Compares the shares of changed pixels, since the styles of drawing differ.

    Raises:
        ValueError: The shares differ too much.
    """
    image = _detections()[0]
    shares = [float((drawn != image).any(axis=-1).mean()) for drawn in (theirs, ours)]
    text = f"{shares[0]:.0%} and {shares[1]:.0%} of the pixels are drawn over"
    if abs(shares[0] - shares[1]) > 0.1:
        raise ValueError(text)
    return text


def _detections() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Makes an image, and boxes, labels and full-size masks of 100 ellipses."""
    (image,) = inputs.images((SIZE,))
    rows, columns = np.mgrid[-1:1:28j, -1:1:28j]
    masks, boxes = operators.paste_inputs(SIZE)
    masks = np.broadcast_to((rows**2 + columns**2 < 1).astype(np.float32), masks.shape)
    labels = np.arange(len(boxes)) % 90 + 1
    return image, boxes, labels, pasting.paste(masks, boxes, SIZE)
