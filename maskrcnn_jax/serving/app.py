"""The application of `maskrcnn-jax serve`: a page to try a model, and an endpoint with JSON."""

import asyncio
import contextlib
import importlib.resources
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from maskrcnn_jax import detector_inputs
from maskrcnn_jax.detector import Detector
from maskrcnn_jax.images import Pixels
from maskrcnn_jax.serving import answers, uploads
from maskrcnn_jax.serving.batches import Batches
from maskrcnn_jax.serving.uploads import Limits

_FILES = {
    "page.html": "text/html",
    "page.css": "text/css",
    "masks.js": "text/javascript",
    "page.js": "text/javascript",
}
_HEADERS = {
    # Scripts and styles of this server only; pictures only of files that the reader opened.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_SECONDS_TO_RETRY = 2
_NUM_READERS = 2  # Threads that decode images and encode masks, beside the model's.


class Service:
    """Answers requests with the detections of one detector.

    Args:
        detector: Images of any size have to fit its buckets (``only_buckets``): otherwise each new
            size would cost a compilation.
        limits: What is accepted.
        name: The name of the model, for the page.
    """

    def __init__(self, detector: Detector, limits: Limits, name: str) -> None:
        self.detector, self.limits, self.name = detector, limits, name
        self.num_active = 0
        self._batches = Batches(detector)
        self._readers = ThreadPoolExecutor(_NUM_READERS, "images")
        # While one batch is in the model, the next one is decoded; others wait as files.
        self._decoded = asyncio.Semaphore(2 * detector.batch_size)

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Runs the model's batches while the server runs."""
        task = asyncio.create_task(self._batches.run())
        yield
        task.cancel()

    async def detect(self, request: Request) -> Response:
        """POST /detect: an image as body, its detections as JSON."""
        # Browsers say by this header whose page sends a request.
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise HTTPException(403, "pages of other sites may not use this server")
        threshold, top_k, masks = self._options(request)
        if self.num_active >= self.limits.num_requests:
            wait = {"Retry-After": str(_SECONDS_TO_RETRY)}
            raise HTTPException(503, "too many requests at once: try again", wait)
        self.num_active += 1
        try:
            return JSONResponse(await self._answer(request, threshold, top_k, masks))
        finally:
            self.num_active -= 1

    async def _answer(
        self, request: Request, threshold: np.float32, top_k: int, masks: bool
    ) -> dict[str, Any]:
        deadline = asyncio.get_running_loop().time() + self.limits.seconds
        try:
            async with asyncio.timeout_at(deadline):
                content = await uploads.read(request, self.limits.num_bytes)
        except TimeoutError:
            raise HTTPException(408, "the upload took too long") from None
        try:
            async with asyncio.timeout_at(deadline):
                async with self._decoded:
                    if await request.is_disconnected():
                        raise ClientDisconnect
                    image = await self._in_thread(self._decode, content)
                    del content
                    found = await self._batches.detect(image, threshold)
                    size = image.shape[:2]
                    del image
                # The clock of an event loop is `time.monotonic`, as that of `answers.answer`.
                arguments = self.detector, found, size, top_k, masks, deadline
                return await self._in_thread(answers.answer, *arguments)
        except TimeoutError:
            seconds = f"{self.limits.seconds:g} s"
            raise HTTPException(504, f"there was no time for this image in {seconds}") from None

    def _decode(self, content: bytes) -> Pixels:
        data, most = self.detector.data, self.limits.num_pixels
        return uploads.decode(content, most, self.detector.num_channels, data.image_dtype)

    async def _in_thread(self, function: Any, *arguments: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, function, *arguments)

    def _options(self, request: Request) -> tuple[np.float32, int, bool]:
        """Reads ``threshold``, ``top_k`` and ``masks`` of an address.

        Raises HTTPException 400 for another option or value.
        """
        given = dict(request.query_params)
        detection = self.detector.model.detection
        try:
            text = given.pop("threshold", None)
            threshold = detector_inputs.checked_threshold(
                detection.score_threshold if text is None else float(text)
            )
            text = given.pop("top_k", None)
            top_k = detector_inputs.checked_top_k(
                None if text is None else int(text), detection.num_detections
            )
            masks = {"rle": True, "none": False}[given.pop("masks", "rle")]
            if given:
                raise ValueError(f"there is no option {next(iter(given))[:50]!r}")
        except KeyError:
            raise HTTPException(400, "masks must be rle or none") from None
        except ValueError as error:
            raise HTTPException(400, str(error)) from error
        return threshold, top_k, masks

    async def about(self, _: Request) -> Response:
        """GET /about: the name of the model, its categories, and the limits."""
        return JSONResponse(
            {
                "name": self.name,
                "categories": self.detector.categories.to_json(),
                "score_threshold": self.detector.model.detection.score_threshold,
                "batch_size": self.detector.batch_size,
                "limits": self.limits._asdict(),
            }
        )

    async def health(self, _: Request) -> Response:
        """GET /healthz: 200 while the server answers, and the number of requests in it."""
        return JSONResponse({"status": "ok", "requests": self.num_active})


def application(detector: Detector, limits: Limits, name: str) -> Starlette:
    """Makes the application; arguments as for `Service`. Create it inside of an event loop."""
    service = Service(detector, limits, name)

    async def refuse(request: Request, error: Exception) -> Response:
        """Answers a mistake, after the rest of the request has arrived."""
        assert isinstance(error, HTTPException)
        await uploads.discard(request, limits.seconds)
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    async def leave(request: Request, error: Exception) -> Response:
        return Response(status_code=400)  # Nobody reads it: the client has left.

    async def fail(request: Request, error: Exception) -> Response:
        """The server prints the error itself."""
        return JSONResponse({"error": "the model failed on this image"}, 500)

    routes = [
        Route("/detect", service.detect, methods=["POST"]),
        Route("/about", service.about),
        Route("/healthz", service.health),
        Route("/", _file("page.html")),
        *(Route(f"/{name}", _file(name)) for name in _FILES if name != "page.html"),
    ]
    handlers = {HTTPException: refuse, ClientDisconnect: leave, Exception: fail}
    return Starlette(routes=routes, exception_handlers=handlers, lifespan=service.lifespan)


def _file(name: str) -> Any:
    """Makes the endpoint of a file of the page."""
    content = importlib.resources.files(__package__).joinpath(name).read_bytes()

    async def respond(_: Request) -> Response:
        return Response(content, media_type=_FILES[name], headers=_HEADERS)

    return respond
