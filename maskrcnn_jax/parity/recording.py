"""Records what the modules of a peer compute, and brings it to our form.

The functions work on PyTorch's modules and tensors, without importing torch.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int

from maskrcnn_jax.config import Config
from maskrcnn_jax.parity.records import Levels
from maskrcnn_jax.weights.torchvision_resnet import COUNTER


@contextlib.contextmanager
def recorded(
    modules: Mapping[str, Any],
    copies: Mapping[str, Callable[[Any], Any]] | None = None,
    inputs_too: Mapping[str, Any] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yields a dictionary that gets the last output of each module by its name.

    Args:
        modules: PyTorch's modules by names.
        copies: By name, functions that copy outputs that the peer overwrites later.
        inputs_too: Further modules by names, whose entries are the list of all calls, each with its
            inputs and its output.
    """
    outputs: dict[str, Any] = {}
    copies, inputs_too = copies or {}, inputs_too or {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            outputs[name] = copies[name](output) if name in copies else output

        return hook

    def add(name: str) -> Callable[..., None]:
        outputs[name] = []
        return lambda module, inputs, output: outputs[name].append((inputs, output))

    hooks = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    hooks += [module.register_forward_hook(add(name)) for name, module in inputs_too.items()]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def rows(arrays: Sequence[Any], i: int) -> slice:
    """The rows of the i-th array in the concatenation of all."""
    start = sum(map(len, arrays[:i]))
    return slice(start, start + len(arrays[i]))


def of_class(
    logits: Float32[np.ndarray, "d m m k"], labels: Int[np.ndarray, " d"]
) -> Float32[np.ndarray, "d m m"]:
    """The masks of the class of each detection; the only ones, if there is one for all classes."""
    channels = labels if logits.shape[3] > 1 else np.zeros_like(labels)
    return np.take_along_axis(logits, channels.reshape(-1, 1, 1, 1), axis=3)[..., 0]


def levels(tensors: Sequence[Any], first: int = 2) -> Levels:
    """Arrays by level, the finest first."""
    return {level: tensor.numpy() for level, tensor in enumerate(tensors, start=first)}


def channels_last(x: Any) -> Any:
    """Moves the channels of a tensor to the last axis."""
    return x.movedim(-3, -1)


def background_first(
    logits: Float32[np.ndarray, "p k"], deltas: Float32[np.ndarray, "p _"]
) -> tuple[Float32[np.ndarray, "p k"], Float32[np.ndarray, "p _k 4"]]:
    """Class logits with background first, and class deltas with zeros for it.

    Args:
        logits: Background is the last class.
        deltas: Four numbers for each other class, or four for all of them, which stay as they are.
    """
    deltas = deltas.reshape(len(deltas), -1, 4)
    is_agnostic = deltas.shape[1] == 1 < logits.shape[1] - 1
    background = 0 if is_agnostic else 1
    return np.roll(logits, 1, axis=1), np.pad(deltas, ((0, 0), (background, 0), (0, 0)))


def log_mean_of_softmax(logits: Sequence[Any]) -> Any:
    """Logits whose softmax is the mean of those of several tensors ``[p, k]``, in float32."""
    logs = [x.double().log_softmax(1) for x in logits]
    total = logs[0]
    for log in logs[1:]:
        total = total.logaddexp(log)
    return (total - float(np.log(len(logs)))).float()


def logit_of_mean(logits: Any) -> Any:
    """The logit of the mean probability over the first axis of a tensor, in float32."""
    inside, outside = ((sign * logits.double()).sigmoid().mean(0).log() for sign in (1, -1))
    return (inside - outside).float()


def paste(
    paste_one: Callable[..., Any], masks: Any, boxes: Any, inside: Bool[np.ndarray, "d h w"]
) -> Float32[np.ndarray, "d h w"]:
    """The probabilities behind final masks, above 0.5 exactly where ``inside`` is set.

    Detectron2 and MMDetection count a probability of 0.5 as inside; it becomes the next larger
    number, as in `pasting.paste_centres`.

    Args:
        paste_one: The peer's function for masks [1, 1, m, m] and boxes [1, 4]. It returns a patch,
            and its place in the image.
        masks: Tensor [d, m, m] of probabilities.
        boxes: Tensor [d, 4], in pixels of the image.
        inside: The peer's final masks.

    Raises:
        ValueError: The probabilities do not give the final masks.
    """
    pasted = np.zeros(inside.shape, np.float32)
    for full, mask, box in zip(pasted, masks, boxes, strict=True):
        patch, place = paste_one(mask[None, None], box[None], *inside.shape[1:])
        full[place] = patch[0].numpy()
    pasted = np.where(pasted == 0.5, np.nextafter(np.float32(0.5), np.float32(1)), pasted)
    if ((pasted > 0.5) != inside).any():
        raise ValueError("the peer's masks do not follow from its probabilities")
    return pasted


def load(model: Any, tensors: Mapping[str, Any]) -> None:
    """Loads a state dict into a model; only batch counters may be missing.

    Raises:
        ValueError: Other names are missing or unexpected; the message lists them.
    """
    found = model.load_state_dict(tensors, strict=False)
    missing = [name for name in found.missing_keys if not name.endswith(COUNTER)]
    if missing or found.unexpected_keys:
        raise ValueError(f"missing {missing} and unexpected {list(found.unexpected_keys)}")


def check_rules(config: Config, rules: Mapping[str, Any], peer: str) -> None:
    """Raises ValueError, which lists the fields, unless the fields of a config have given values.

    Args:
        config: A whole config.
        rules: Values by the names of fields, such as "model.rpn.round_anchors".
        peer: The program that has only these rules.
    """
    problems = []
    for name, expected in rules.items():
        value: Any = config
        for part in name.split("."):
            value = getattr(value, part, expected)  # A model may have no mask head.
        if value != expected:
            problems.append(f"{name}={value!r}, only {expected!r}")
    if problems:
        raise ValueError(f"{peer} has no model with {'; '.join(problems)}")
