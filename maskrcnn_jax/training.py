"""One step of training, and all that belongs to it: the state, the optimizer, the schedule of the learning rate."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from maskrcnn_jax.config import Config, OptimizerConfig
from maskrcnn_jax.losses import mean
from maskrcnn_jax.model import MaskRCNN
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
        """What `MaskRCNN.apply` takes."""
        return {"params": self.params, "constants": self.constants, "batch_stats": self.batch_stats}


def create_state(variables: dict[str, Any], optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step, of freshly initialised or loaded variables, on the device."""
    variables = jax.tree.map(jnp.asarray, variables)
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        constants=variables.get("constants", {}),
        batch_stats=variables.get("batch_stats", {}),
        optimizer=optimizer.init(params),
    )


def init_variables(model: MaskRCNN, seed: int) -> dict[str, Any]:
    """Random variables; the same for any bucket, since no parameter depends on the size of the image."""
    images, sizes = jnp.zeros((1, 64, 64, 3), jnp.uint8), jnp.full((1, 2), 64, jnp.int32)
    # It runs once: to optimise the program would take longer.
    init = jax.jit(model.init, compiler_options={"xla_backend_optimization_level": 0})
    return init(jax.random.key(seed), images, sizes)


def learning_rate(config: OptimizerConfig, batch_size: int) -> optax.Schedule:
    """Linear warm-up, then steps down; proportional to the number of images per step (Goyal et al., 2017)."""
    peak = config.learning_rate * batch_size / REFERENCE_BATCH

    def schedule(step: Int[Array, ""] | int) -> Float[Array, ""]:
        progress = jnp.minimum(step / max(config.warmup_steps, 1), 1.0)
        warmup = config.warmup_factor + (1 - config.warmup_factor) * progress
        num_decays = (jnp.asarray(step) >= jnp.array(config.decay_steps)).sum()
        return peak * warmup * config.decay_factor**num_decays

    return schedule


def make_optimizer(config: Config, params: dict[str, Any]) -> optax.GradientTransformation:
    """SGD or AdamW. What is frozen does not move, does not decay, and is not counted in the norm that is clipped.

    Raises:
        ValueError: Another optimizer is asked for.
    """
    settings = config.optimizer
    rate = learning_rate(settings, config.batch_size)
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
    state: TrainState, batch: Batch, key: Key, *, model: MaskRCNN, optimizer: optax.GradientTransformation
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """Moves the parameters against the gradient of the summed losses of a batch.

    Returns:
        The next state, and the metrics of this step: ``loss``, its five parts, diagnostics, ``gradient_norm``.
    """
    step_key = jax.random.fold_in(key, state.step)

    def total(params: dict[str, Any]) -> tuple[Float[Array, ""], tuple[dict[str, Float[Array, ""]], dict[str, Any]]]:
        variables = state._replace(params=params).variables
        (losses, diagnostics), updated = model.apply(
            variables, batch, step_key, method="losses", mutable=["batch_stats"]
        )
        means = {name: mean(loss) for name, loss in losses.items()}
        return sum(means.values()), (means | diagnostics, updated.get("batch_stats", {}))

    (loss, (metrics, batch_stats)), gradients = jax.value_and_grad(total, has_aux=True)(state.params)
    updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics |= {"loss": loss, "gradient_norm": optax.tree.norm(gradients)}
    state = state._replace(step=state.step + 1, params=params, batch_stats=batch_stats, optimizer=optimizer_state)
    return state, metrics


def compile_step(model: MaskRCNN, optimizer: optax.GradientTransformation) -> Any:
    """`train_step` as one program, compiled once per bucket; the state it is given is overwritten."""
    return jax.jit(partial(train_step, model=model, optimizer=optimizer), donate_argnums=0)
