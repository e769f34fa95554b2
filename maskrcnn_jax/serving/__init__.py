"""The server of `maskrcnn-jax serve`. It needs the packages of the extra ``serve``."""

try:
    import starlette  # noqa: F401
    import uvicorn  # noqa: F401
except ImportError as error:
    raise ImportError(
        "serving needs starlette and uvicorn: install them by `pip install 'maskrcnn-jax[serve]'`"
    ) from error
