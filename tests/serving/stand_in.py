"""A server in a thread of the test, with a stand-in for the model that needs no compilation."""

import contextlib
import http.client
import io
import json
import socket
import threading
from typing import NamedTuple

import numpy as np
import uvicorn
from PIL import Image

from maskrcnn_jax.config import DataConfig, DetectionConfig
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.detector import Detector
from maskrcnn_jax.execution import Execution
from maskrcnn_jax.model_config import ModelConfig
from maskrcnn_jax.serving import app
from maskrcnn_jax.serving.uploads import Limits
from maskrcnn_jax.structures import Detections

CATEGORIES = Categories((3, 9, 11), ("cat", "<b>dog", "n\u00f6tt"))
DATA = DataConfig(test_short_side=64, test_max_long_side=96, test_buckets=((64, 96), (96, 64)))
SCORES = np.array([0.9, 0.6, 0.01], np.float32)


class Immediate(Execution):
    """Runs functions as they are."""

    def jit(self, function, **settings):
        return function


class FindsRed:
    """Detects the red pixels of each image three times: boxes that shrink, and scores that fall.

    Attributes:
        batches: The number of red images in each batch.
        gate: The model waits until it is set.
    """

    def __init__(self):
        self.config, self.detection = ModelConfig(num_classes=4), DetectionConfig(num_detections=3)
        self.run, self.batches, self.gate = Immediate(), [], threading.Event()
        self.gate.set()

    def apply(self, variables, images, sizes, canvas, threshold):
        red = images[..., 0] > 0.5
        self.batches.append(int(red.any((1, 2)).sum()))
        assert self.gate.wait(30)
        boxes = np.zeros((len(images), 3, 4), np.float32)
        for row, one in enumerate(red):
            if one.any():
                y, x = np.nonzero(one)
                whole = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1], np.float32)
                boxes[row] = [whole, *[whole * f for f in (np.float32(0.9), np.float32(0.8))]]
        scores = SCORES * red.any((1, 2))[:, None]
        masks = np.linspace(0, 1, 28 * 28, dtype=np.float32).reshape(28, 28)
        masks = np.broadcast_to(masks, (*scores.shape, 28, 28))
        classes = np.broadcast_to(np.array([2, 1, 3]), scores.shape)
        return Detections(boxes, classes, scores, masks, scores > threshold)


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    content: dict


class Server(NamedTuple):
    """A running server."""

    port: int
    detector: Detector

    @property
    def address(self):
        return f"http://127.0.0.1:{self.port}"

    def send(self, body=None, query="", path="/detect", method="POST", **headers):
        """Sends one request, and returns the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(
                method, path + query, body, {k.replace("_", "-"): v for k, v in headers.items()}
            )
            response = connection.getresponse()
            content = response.read()
        is_json = response.headers.get_content_type() == "application/json"
        return Answer(response.status, response.headers, json.loads(content) if is_json else {})


def stand_in_detector(batch_size=1):
    return Detector(FindsRed(), {}, CATEGORIES, DATA, batch_size=batch_size, only_buckets=True)


@contextlib.contextmanager
def running(detector, **limits):
    """Serves a detector on a free port."""
    application = app.application(detector, Limits(**limits), "a model")
    config = uvicorn.Config(
        application, log_config=None, log_level="error", loop="asyncio", ws="none", lifespan="on"
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield Server(listener.getsockname()[1], detector)
        finally:
            detector.model.gate.set()
            server.should_exit = True
            thread.join()


def png(height=60, width=90, box=(9, 6, 45, 30)):
    """A black image with a red rectangle, as a PNG file."""
    x0, y0, x1, y1 = box
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[y0:y1, x0:x1, 0] = 255
    return encoded(pixels)


def encoded(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()
