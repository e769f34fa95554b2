"""Running out of memory, told in words instead of a traceback."""

_ADVICE = "use smaller images or a smaller batch_size; training also takes a larger num_microbatches"


def ran_out(error: BaseException) -> bool:
    """Whether Python, NumPy or jax says by this error that the memory of the machine or of the accelerator is full."""
    return isinstance(error, MemoryError) or isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def explain(error: BaseException) -> str:
    """What was too large, as far as the error knows, and what to do, in one line."""
    lines = str(error).removeprefix("RESOURCE_EXHAUSTED: ").splitlines()  # XLA may add pages on where it all went.
    return f"out of memory: {lines[0].rstrip('.')}; {_ADVICE}" if lines else f"out of memory: {_ADVICE}"
