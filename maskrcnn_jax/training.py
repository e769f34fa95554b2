"""The training step, its state, the optimizer and the learning-rate schedule."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from jaxtyping import Array, Float, Int

from maskrcnn_jax.config import Config, OptimizerConfig
from maskrcnn_jax.losses import mean
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.modules import backbones
from maskrcnn_jax.ops.sampling import Key
from maskrcnn_jax.structures import Batch
from maskrcnn_jax.variables import example_inputs

REFERENCE_BATCH = 16  # Images per step that learning rates in configs refer to.

Metrics = dict[str, Float[Array, ""]]


class TrainState(NamedTuple):
    """The state of a run after a step: everything but the data that the next step needs."""

    step: Int[Array, ""]  # Steps taken so far.
    params: dict[str, Any]
    constants: dict[str, Any]  # Statistics and affine of frozen norms.
    batch_stats: dict[str, Any]  # Running statistics of batch norms.
    optimizer: optax.OptState
    average: dict[str, Any] | None = None  # Moving average of the parameters; None if not kept.

    @property
    def variables(self) -> dict[str, Any]:
        """The variables for detection, with averaged parameters if the state keeps an average."""
        params = self.params if self.average is None else self.average
        return {"params": params, "constants": self.constants, "batch_stats": self.batch_stats}


def create_state(
    variables: dict[str, Any], optimizer: optax.GradientTransformation, *, average: bool = False
) -> TrainState:
    """Puts the state before the first step onto the device, from initial or loaded variables."""
    variables = jax.tree.map(jnp.asarray, variables)
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        constants=variables.get("constants", {}),
        batch_stats=variables.get("batch_stats", {}),
        optimizer=optimizer.init(params),
        average=jax.tree.map(jnp.copy, params) if average else None,
    )


def init_variables(model: MaskRCNN, seed: int) -> dict[str, Any]:
    """Draws random variables. They do not depend on the image size, so they fit any bucket."""
    # The program runs only once, so optimising it would cost more time than it saves.
    init = jax.jit(model.init, compiler_options={"xla_backend_optimization_level": 0})
    return init(jax.random.key(seed), *example_inputs(model.config))


def learning_rate(config: OptimizerConfig, batch_size: int, num_steps: int) -> optax.Schedule:
    """A schedule of linear warm-up, followed by step decay or half a cosine.

    The rate scales linearly with the number of images per step (Goyal et al., 2017).

    Raises:
        ValueError: The config names another schedule.
    """
    if config.schedule not in ("steps", "cosine"):
        raise ValueError(f'optimizer.schedule must be "steps" or "cosine", got {config.schedule!r}')
    peak = config.learning_rate * batch_size / REFERENCE_BATCH

    def schedule(step: Int[Array, ""] | int) -> Float[Array, ""]:
        progress = jnp.minimum(step / max(config.warmup_steps, 1), 1.0)
        warmup = config.warmup_factor + (1 - config.warmup_factor) * progress
        if config.schedule == "cosine":
            decay = (1 + jnp.cos(jnp.pi * jnp.minimum(step / num_steps, 1.0))) / 2
        else:
            num_decays = (jnp.asarray(step) >= jnp.array(config.decay_steps)).sum()
            decay = config.decay_factor**num_decays
        return peak * warmup * decay

    return schedule


def make_optimizer(config: Config, params: dict[str, Any]) -> optax.GradientTransformation:
    """Makes SGD with momentum or AdamW.

    Frozen parameters get no update and no weight decay, and do not count in the clipped norm.

    Raises:
        ValueError: The config names another optimizer.
    """
    settings = config.optimizer
    rate = learning_rate(settings, config.batch_size, config.num_steps)
    decayed = {"all": None, "not_norms": _is_no_norm, "kernels": _is_kernel}[settings.decay]
    parts = []
    if settings.max_gradient_norm is not None:
        parts.append(optax.clip_by_global_norm(settings.max_gradient_norm))
    if settings.name == "sgd":
        parts.append(optax.add_decayed_weights(settings.weight_decay, mask=decayed))
        parts.append(optax.sgd(rate, momentum=settings.momentum))
    elif settings.name == "adamw":
        decay = {"weight_decay": settings.weight_decay, "mask": decayed}
        parts.append(optax.adamw(rate, b1=settings.momentum, **decay))
    else:
        raise ValueError(f'optimizer.name must be "sgd" or "adamw", got {settings.name!r}')
    if settings.layer_decay < 1:
        parts.append(_scaled(config.model.backbone, settings.layer_decay))
    frozen = frozen_mask(params, config.model.backbone)
    labels = jax.tree.map(lambda is_frozen: "frozen" if is_frozen else "trained", frozen)
    transforms = {"trained": optax.chain(*parts), "frozen": optax.set_to_zero()}
    return optax.multi_transform(transforms, labels)


def frozen_mask(params: dict[str, Any], backbone: Any) -> dict[str, Any]:
    """True at the parameters of the frozen stages of the backbone.

    Args:
        params: The parameters of the model.
        backbone: The config of the backbone.
    """

    def is_frozen(path: tuple[Any, ...], _: Any) -> bool:
        part, layer = path[0].key, path[1].key
        return part == "backbone" and backbones.is_frozen(backbone, layer)

    return jax.tree_util.tree_map_with_path(is_frozen, params)


def _scaled(backbone: Any, decay: float) -> optax.GradientTransformation:
    """Lowers the learning rate of each stage of the backbone (layer-wise decay, BEiT, 2021)."""

    def scale(path: tuple[Any, ...], update: Array) -> Array:
        if path[0].key != "backbone":
            return update
        return update * decay ** backbones.layers_above(backbone, path[1].key)

    return optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(scale, updates))


def _is_no_norm(params: dict[str, Any]) -> dict[str, Any]:
    """False at scale and bias of norms and at the positions of a ViT, True elsewhere."""
    flat = traverse_util.flatten_dict(params)
    norms = {path[:-1] for path in flat if path[-1] == "scale"}
    decays = {path: path[:-1] not in norms and path[-1] != "pos_embed" for path in flat}
    return traverse_util.unflatten_dict(decays)


def _is_kernel(params: dict[str, Any]) -> dict[str, Any]:
    """True at kernels, False at biases and the affine of norms."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def train_step(
    state: TrainState,
    batch: Batch,
    key: Key,
    *,
    model: MaskRCNN,
    optimizer: optax.GradientTransformation,
    num_microbatches: int = 1,
    average_decay: float | None = None,
) -> tuple[TrainState, Metrics]:
    """Updates the parameters by the gradient of the summed losses of a batch.

    Args:
        num_microbatches: The number of parts of the batch that are computed in sequence. The sums
            and counts of all parts are added before the division, so loss and gradient are those
            of the whole batch. Only batch norms take the statistics of each part.
        average_decay: The decay of the moving average of the parameters, if the state keeps one.
            The decay of early steps is smaller, so that the average soon forgets the initial
            values.

    Returns:
        The next state, and the metrics of this step: ``loss``, the losses in it, diagnostics and
        ``gradient_norm``.
    """
    step_key = jax.random.fold_in(key, state.step)
    total = partial(
        _total_loss,
        state=state,
        batch=batch,
        key=step_key,
        model=model,
        num_microbatches=num_microbatches,
    )
    value_and_grad = jax.value_and_grad(total, has_aux=True)
    (loss, (metrics, batch_stats)), gradients = value_and_grad(state.params)
    updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics |= {"loss": loss, "gradient_norm": optax.tree.norm(gradients)}
    after = TrainState(
        step=state.step + 1,
        params=params,
        constants=state.constants,
        batch_stats=batch_stats,
        optimizer=optimizer_state,
        average=None if state.average is None else _average(state, params, average_decay),
    )
    return after, metrics


def _total_loss(
    params: dict[str, Any],
    *,
    state: TrainState,
    batch: Batch,
    key: Key,
    model: MaskRCNN,
    num_microbatches: int,
) -> tuple[Float[Array, ""], tuple[Metrics, dict[str, Any]]]:
    """The sum of the losses; beside it the metrics, and the next statistics of batch norms."""

    def losses_of(batch_stats: dict[str, Any], part: Batch) -> tuple[dict[str, Any], Any]:
        variables = {"params": params, "constants": state.constants, "batch_stats": batch_stats}
        result, updated = model.apply(
            variables,
            part,
            key,
            method="losses",
            mutable=["batch_stats"],
            rngs={"drop_path": jax.random.fold_in(key, part.image_id[0])},
        )
        return updated.get("batch_stats", {}), result

    if num_microbatches == 1:
        batch_stats, (losses, diagnostics) = losses_of(state.batch_stats, batch)
    else:
        parts = _split(batch, num_microbatches)
        batch_stats, results = jax.lax.scan(jax.checkpoint(losses_of), state.batch_stats, parts)
        losses, diagnostics = jax.tree.map(lambda x: x.sum(0), results)
    means = {name: mean(loss) for name, loss in losses.items()}
    metrics = means | {name: mean(pair) for name, pair in diagnostics.items()}
    total: Any = sum(means.values())
    return total, (metrics, batch_stats)


def _split(batch: Batch, num_parts: int) -> Batch:
    """Reshapes ``[b, ...]`` to ``[parts, b / parts, ...]``; each part has images of every device.

    Raises:
        ValueError: The number of parts does not divide the batch.
    """
    size = len(batch.images)
    if size % num_parts:
        raise ValueError(
            f"a batch of {size} images cannot be divided into execution.num_microbatches="
            f"{num_parts} equal parts"
        )

    def split(x: Array) -> Array:
        return jnp.swapaxes(x.reshape(size // num_parts, num_parts, *x.shape[1:]), 0, 1)

    return jax.tree.map(split, batch)


def _average(state: TrainState, params: dict[str, Any], decay: float | None) -> dict[str, Any]:
    assert decay is not None, "a state that keeps an average needs average_decay"
    warm = jnp.minimum(decay, (1 + state.step) / (10 + state.step))
    return jax.tree.map(lambda old, new: old + (1 - warm) * (new - old), state.average, params)


def compile_step(model: MaskRCNN, optimizer: optax.GradientTransformation, config: Config) -> Any:
    """Jits `train_step`, which compiles once per bucket. The program donates the given state."""
    step = partial(
        train_step,
        model=model,
        optimizer=optimizer,
        num_microbatches=config.execution.num_microbatches,
        average_decay=config.optimizer.average_decay,
    )
    return model.run.jit(step, donate_argnums=0)
