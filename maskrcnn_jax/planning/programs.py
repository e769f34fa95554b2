"""The programs that a plan compiles: the training step, detection, or one stage of them."""

from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from maskrcnn_jax import execution, sharding, training
from maskrcnn_jax.config import Config
from maskrcnn_jax.data.pack import batch_shapes
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.planning import stages
from maskrcnn_jax.variables import variable_shapes


def lower(
    config: Config,
    bucket: tuple[int, int],
    mesh: Mesh,
    program: str = "train",
    stage: str | None = None,
) -> jax.stages.Lowered:
    """Lowers a program for shapes with their shardings; variables are shapes only.

    Args:
        config: The experiment; its batch size is that of all devices of the mesh.
        bucket: Height and width of the images in pixels.
        mesh: The devices.
        program: "train", the step of training, or "detect", as in evaluation.
        stage: One stage of the program, by a name of `stages.NAMES`.

    Raises:
        ValueError: The program has no such stage.
    """
    run = execution.choose(config.execution, mesh)
    if program == "detect":  # Detection maps over the images of one device.
        run = run._replace(per_image=jax.vmap, per_pyramid=jax.vmap)
    model = MaskRCNN(config.model, config.detection, run)
    key = jax.eval_shape(partial(jax.random.key, config.seed))
    variables = variable_shapes(config.model)
    masks = config.model.mask_head is not None
    batch = batch_shapes(config, bucket, config.batch_size, masks=masks)
    if stage is not None:
        function, arguments = stages.trace(model, variables, batch, program, stage)
        return run.jit(function).lower(*_replicated(arguments, mesh))
    batch = jax.tree.map(_place, sharding.batch_shardings(batch, mesh), batch)
    if program == "detect":
        detect = run.jit(sharding.per_device(model.apply, mesh))
        return detect.lower(_replicated(variables, mesh), batch.images, batch.sizes, batch.canvas)
    optimizer = training.make_optimizer(config, variables["params"])
    average = config.optimizer.average_decay is not None
    create_state = partial(training.create_state, optimizer=optimizer, average=average)
    state = jax.eval_shape(create_state, variables)
    state, key = _replicated((state, key), mesh)
    return training.compile_step(model, optimizer, config).lower(state, batch, key)


def _replicated(tree: Any, mesh: Mesh) -> Any:
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(partial(_place, everywhere), tree)


def _place(where: NamedSharding, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)
