"""One step of training, and all that belongs to it: the state, the optimizer, the schedule of the learning rate."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from maskrcnn_jax import compiler
from maskrcnn_jax.config import Config, OptimizerConfig
from maskrcnn_jax.losses import mean
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.modules.materialise import materialise
from maskrcnn_jax.ops.sampling import Key
from maskrcnn_jax.structures import Batch

REFERENCE_BATCH = 16  # Learning rates are stated for this many images per step.


class TrainState(NamedTuple):
    """Everything a run needs to go on, apart from the data."""

    step: Int[Array, ""]  # Steps taken so far.
    params: dict[str, Any]
    constants: dict[str, Any]  # Fixed numbers: statistics and affine of frozen norms.
    batch_stats: dict[str, Any]  # Running statistics of batch norms.
    optimizer: optax.OptState
    average: dict[str, Any] | None = None  # Moving average of the parameters, where one is kept.

    @property
    def variables(self) -> dict[str, Any]:
        """What `MaskRCNN.apply` takes to detect: the average of the parameters if there is one."""
        params = self.params if self.average is None else self.average
        return {"params": params, "constants": self.constants, "batch_stats": self.batch_stats}


def create_state(
    variables: dict[str, Any], optimizer: optax.GradientTransformation, *, average: bool = False
) -> TrainState:
    """The state before the first step, of freshly initialised or loaded variables, on the device."""
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
    """Random variables; the same for any bucket, since no parameter depends on the size of the image."""
    images, sizes = jnp.zeros((1, 64, 64, 3), jnp.uint8), jnp.full((1, 2), 64, jnp.int32)
    # It runs once: to optimise the program would take longer.
    init = jax.jit(model.init, compiler_options={"xla_backend_optimization_level": 0})
    return init(jax.random.key(seed), images, sizes)


def learning_rate(config: OptimizerConfig, batch_size: int, num_steps: int) -> optax.Schedule:
    """Linear warm-up, then steps down or half a cosine; proportional to the images per step (Goyal et al., 2017).

    Raises:
        ValueError: Another schedule is asked for.
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
            decay = config.decay_factor ** (jnp.asarray(step) >= jnp.array(config.decay_steps)).sum()
        return materialise(peak * warmup * decay)  # XLA would compute it again for every parameter.

    return schedule


def make_optimizer(config: Config, params: dict[str, Any]) -> optax.GradientTransformation:
    """SGD or AdamW. What is frozen does not move, does not decay, and is not counted in the norm that is clipped.

    Raises:
        ValueError: Another optimizer is asked for.
    """
    settings = config.optimizer
    rate = learning_rate(settings, config.batch_size, config.num_steps)
    decayed = None if settings.decay_norms_and_biases else _is_kernel
    parts = []
    if settings.max_gradient_norm is not None:
        parts.append(optax.clip_by_global_norm(settings.max_gradient_norm))
    if settings.name == "sgd":
        parts.append(optax.add_decayed_weights(settings.weight_decay, mask=decayed))
        parts.append(optax.sgd(rate, momentum=settings.momentum))
    elif settings.name == "adamw":
        parts.append(optax.adamw(rate, b1=settings.momentum, weight_decay=settings.weight_decay, mask=decayed))
    else:
        raise ValueError(f'optimizer.name must be "sgd" or "adamw", got {settings.name!r}')
    labels = jax.tree.map(
        lambda frozen: "frozen" if frozen else "trained", frozen_mask(params, config.model.frozen_stages)
    )
    return optax.multi_transform({"trained": optax.chain(*parts), "frozen": optax.set_to_zero()}, labels)


def frozen_mask(params: dict[str, Any], frozen_stages: int) -> dict[str, Any]:
    """True at the parameters of the first so many of: stem, C2, C3, C4, C5."""

    def is_frozen(path: tuple[Any, ...], _: Any) -> bool:
        part, name = path[0].key, path[1].key
        if part != "backbone":
            return False
        stage = int(name.removeprefix("layer").split("_")[0]) + 1 if name.startswith("layer") else 1
        return stage <= frozen_stages

    return jax.tree_util.tree_map_with_path(is_frozen, params)


def _is_kernel(params: dict[str, Any]) -> dict[str, Any]:
    """True at weights, False at biases and the affine of norms."""
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
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """Moves the parameters against the gradient of the summed losses of a batch.

    Args:
        num_microbatches: Parts of the batch that are worked through one after the other. Their sums and counts are
            added before they are divided, so that loss and gradient are those of the whole batch; only batch norms see
            each part for itself.
        average_decay: Of the moving average of the parameters, if the state keeps one. The first averages look back
            over fewer steps, lest they remember the beginning for long.

    Returns:
        The next state, and the metrics of this step: ``loss``, its five parts, diagnostics, ``gradient_norm``.
    """
    step_key = jax.random.fold_in(key, state.step)

    def total(params: dict[str, Any]) -> tuple[Float[Array, ""], tuple[dict[str, Float[Array, ""]], dict[str, Any]]]:
        def losses_of(batch_stats: dict[str, Any], part: Batch) -> tuple[dict[str, Any], Any]:
            variables = {"params": params, "constants": state.constants, "batch_stats": batch_stats}
            result, updated = model.apply(variables, part, step_key, method="losses", mutable=["batch_stats"])
            return updated.get("batch_stats", {}), result

        if num_microbatches == 1:
            batch_stats, (losses, watched) = losses_of(state.batch_stats, batch)
        else:
            parts = _split(batch, num_microbatches)
            batch_stats, results = jax.lax.scan(jax.checkpoint(losses_of), state.batch_stats, parts)
            losses, watched = jax.tree.map(lambda x: x.sum(0), results)
        means = {name: mean(loss) for name, loss in losses.items()}
        return sum(means.values()), (means | {name: mean(pair) for name, pair in watched.items()}, batch_stats)

    (loss, (metrics, batch_stats)), gradients = jax.value_and_grad(total, has_aux=True)(state.params)
    updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics |= {"loss": loss, "gradient_norm": optax.tree.norm(gradients)}
    average = state.average if state.average is None else _average(state, params, average_decay)
    return TrainState(state.step + 1, params, state.constants, batch_stats, optimizer_state, average), metrics


def _split(batch: Batch, num_parts: int) -> Batch:
    """``[b, ...]`` to ``[parts, b / parts, ...]``; each part has images of every device that holds some.

    Raises:
        ValueError: The batch cannot be divided so.
    """
    size = len(batch.images)
    if size % num_parts:
        raise ValueError(f"a batch of {size} images cannot be divided into num_microbatches={num_parts} equal parts")
    return jax.tree.map(lambda x: jnp.swapaxes(x.reshape(size // num_parts, num_parts, *x.shape[1:]), 0, 1), batch)


def _average(state: TrainState, params: dict[str, Any], decay: float) -> dict[str, Any]:
    decay = jnp.minimum(decay, (1 + state.step) / (10 + state.step))
    return jax.tree.map(lambda old, new: old + (1 - decay) * (new - old), state.average, params)


def compile_step(model: MaskRCNN, optimizer: optax.GradientTransformation, config: Config) -> Any:
    """`train_step` as one program, compiled once per bucket; the state it is given is overwritten."""
    step = partial(
        train_step,
        model=model,
        optimizer=optimizer,
        num_microbatches=config.num_microbatches,
        average_decay=config.optimizer.average_decay,
    )
    return compiler.jit(config.model.deterministic, model.mesh)(step, donate_argnums=0)
