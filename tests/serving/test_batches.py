"""Concurrent requests in batches of the model; test_app.py sends them to a server."""

import asyncio
import contextlib

import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="uvicorn and starlette are the extra `serve`")

from maskrcnn_jax.serving.batches import Batches  # noqa: E402
from tests.serving.stand_in import SCORES, stand_in_detector  # noqa: E402


def finish(coroutine):
    """Runs a coroutine, for half a minute at most."""
    return asyncio.run(asyncio.wait_for(coroutine, 30))


def image(height=60, width=90, left=10):
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[5:25, left:40, 0] = 255
    return pixels


@contextlib.asynccontextmanager
async def running(detector):
    batches = Batches(detector)
    task = asyncio.create_task(batches.run())
    yield batches
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def queued(batches, *images, threshold=0.0):
    """Puts requests into the queue, and lets them arrive."""
    tasks = [asyncio.create_task(batches.detect(x, np.float32(threshold))) for x in images]
    await asyncio.sleep(0)
    return tasks


def test_the_longest_waiting_image_takes_others_of_its_bucket_along():
    async def run():
        detector = stand_in_detector(batch_size=2)
        batches, tall, wide = Batches(detector), image(90, 60), image()
        tasks = await queued(batches, wide, tall, wide, wide)
        taken = [[each.image.shape[:2] for each in batches._next()] for _ in range(3)]
        for task in tasks:
            task.cancel()
        return taken, batches._next()

    taken, rest = finish(run())
    assert taken == [[(60, 90)] * 2, [(90, 60)], [(60, 90)]] and rest == []


def test_each_request_gets_its_own_answer():
    async def run():
        detector = stand_in_detector(batch_size=3)
        async with running(detector) as batches:
            images = [image(left=x) for x in (4, 10, 20)]
            thresholds = np.float32([0.0, 0.65, 0.95])
            asked = [batches.detect(*pair) for pair in zip(images, thresholds, strict=True)]
            found = await asyncio.gather(*asked)
            alone = [detector.detect_resized([x], 0.0)[0] for x in images]
        return found, alone, thresholds, detector.model.batches[0]

    found, alone, thresholds, first_batch = finish(run())
    assert first_batch == 3
    for ours, expected, threshold in zip(found, alone, thresholds, strict=True):
        np.testing.assert_array_equal(ours.boxes, expected.boxes)
        assert ours.valid.tolist() == (SCORES > threshold).tolist()
        assert ours.boxes.base is None  # Else the arrays of the whole batch would stay.


def test_a_cancelled_request_costs_no_time_of_the_model():
    async def run():
        detector = stand_in_detector(batch_size=4)
        batches = Batches(detector)
        first, second = await queued(batches, image(), image())
        first.cancel()
        await asyncio.sleep(0)
        return len(batches._next()), second.cancel()

    assert finish(run())[0] == 1


def test_an_error_of_the_model_is_that_of_its_batch(monkeypatch):
    async def run():
        detector = stand_in_detector(batch_size=2)
        async with running(detector) as batches:
            with monkeypatch.context() as patch:
                patch.setattr(detector, "_apply", lambda *_: 1 / 0)
                failed = await asyncio.gather(
                    *await queued(batches, image(), image()), return_exceptions=True
                )
            return failed, await batches.detect(image(), np.float32(0))

    failed, found = finish(run())
    assert [type(x) for x in failed] == [ZeroDivisionError] * 2
    assert found.valid.all()
