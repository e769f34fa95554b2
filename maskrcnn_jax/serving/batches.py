"""Collects concurrent requests into batches of the model."""

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np

from maskrcnn_jax.detector import Detector
from maskrcnn_jax.images import Pixels
from maskrcnn_jax.resizing import Size
from maskrcnn_jax.structures import Detections


class _Waiting(NamedTuple):
    """An image that waits for the model."""

    image: Pixels
    bucket: Size
    threshold: np.float32
    answer: asyncio.Future[Detections]


class Batches:
    """Runs a detector on images of concurrent requests, several at once.

    The model never waits for a batch to fill. While it runs, requests arrive, and the next batch is
    the one that has waited longest and others of its bucket. Use it from one event loop, in which
    `run` has to be a task.

    Args:
        detector: Its ``batch_size`` is the largest number of images at once.
    """

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._waiting: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "model")

    async def detect(self, image: Pixels, threshold: np.float32) -> Detections:
        """Returns the detections of one image that score above a threshold, in resized pixels.

        They equal those of ``detector.detect_resized``, whatever else the batch holds. A request
        that is cancelled before the model starts on it costs no time of the model.
        """
        _, bucket = self._detector.place(image.shape[:2])
        answer: asyncio.Future[Detections] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(image, bucket, threshold, answer))
        self._arrived.set()
        found = await answer
        return found._replace(valid=found.valid & (found.scores > threshold))

    async def run(self) -> None:
        """Answers requests until it is cancelled. An error of the model is that of its batch."""
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            batch = self._next()
            if not batch:
                continue
            try:
                found = await loop.run_in_executor(self._thread, self._detect, batch)
            except Exception as error:
                for each in batch:
                    if not each.answer.done():
                        each.answer.set_exception(error)
                continue
            for each, detections in zip(batch, found, strict=True):
                if not each.answer.done():
                    each.answer.set_result(detections)

    def _next(self) -> list[_Waiting]:
        """Takes the image that has waited longest, and others of its bucket, from the queue."""
        waiting = [each for each in self._waiting if not each.answer.done()]
        bucket = waiting[0].bucket if waiting else None
        batch = [each for each in waiting if each.bucket == bucket][: self._detector.batch_size]
        chosen = {id(each) for each in batch}
        self._waiting = deque(each for each in waiting if id(each) not in chosen)
        if not self._waiting:
            self._arrived.clear()
        return batch

    def _detect(self, batch: list[_Waiting]) -> list[Detections]:
        # A lower threshold adds detections after those above a higher one, and changes none.
        lowest = float(min(each.threshold for each in batch))
        found = self._detector.detect_resized([each.image for each in batch], lowest)
        # Copies: a slice would keep the arrays of the whole batch in memory.
        return [jax.tree.map(np.array, each) for each in found]
