"""Explains an out-of-memory error in one message instead of a traceback."""

_ADVICE = (
    "use smaller images or a smaller batch_size; training also takes "
    "execution.num_microbatches=2 and execution.rematerialise=true"
)


def ran_out(error: BaseException) -> bool:
    """Whether an error says that the memory of the machine or of an accelerator is full."""
    exhausted = isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    return isinstance(error, MemoryError) or exhausted


def explain(error: BaseException) -> str:
    """One line with the size of the array, if the error gives it, and advice."""
    # XLA may append pages about its allocations.
    lines = str(error).removeprefix("RESOURCE_EXHAUSTED: ").splitlines()
    reason = f"{lines[0].rstrip('.')}; " if lines else ""
    return f"out of memory: {reason}{_ADVICE}"
