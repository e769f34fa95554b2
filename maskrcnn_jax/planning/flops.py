"""Counts the floating-point operations of the network: convolutions and matrix products.

A multiplication and an addition are two operations. Only products inside modules with parameters
count, which are nearly all operations of the network; RoIAlign, norms, losses and non-maximum
suppression do not count. The counts come from the jaxpr of the losses and their gradient, traced on
shapes, so nothing is compiled or run. They are the same on every machine; divided by the time of a
step and the peak rate of a chip they give the model FLOPs utilisation.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var, jaxprs_in_params
from jaxtyping import Array

from maskrcnn_jax.config import Config
from maskrcnn_jax.data.pack import batch_shapes
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.model_config import ModelConfig
from maskrcnn_jax.ops.sampling import Key
from maskrcnn_jax.structures import Batch
from maskrcnn_jax.variables import variable_shapes

LOOPS = "scan", "while"

# Multiplications by scope, such as "/transpose(jvp(Model))/fpn/fpn._conv", and for each argument
# whether it is needed.
Counted = tuple[Counter[str], list[bool]]


class Flops(NamedTuple):
    """Floating-point operations for one image."""

    forward: int
    training: int  # Forward and backward pass.


def count(config: ModelConfig, bucket: tuple[int, int]) -> dict[str, Flops]:
    """Counts the operations of each submodule of the model in a training step.

    Frozen stages have no backward pass. The gradient of the RPN counts over whole feature maps.

    Args:
        config: The model.
        bucket: Height and width of the image in pixels.
    """
    masks = config.mask_head is not None
    batch = batch_shapes(Config(model=config), bucket, 1, masks=masks)
    model = MaskRCNN(config)
    key = jax.eval_shape(partial(jax.random.key, 0))
    others = dict(variable_shapes(config))
    params = others.pop("params")

    def loss(params: dict[str, Any], others: dict[str, Any], batch: Batch, key: Key) -> Array:
        losses, _ = model.apply({"params": params} | others, batch, key, method="losses")
        return sum(total for total, _ in losses.values())

    with nn.override_named_call(True):  # Flax then names the scope of each module.
        return count_loss(loss, params, others, batch, key)


def total(config: ModelConfig, bucket: tuple[int, int]) -> Flops:
    """Counts the operations of the whole network in a training step on an image of this size."""
    return Flops(*map(sum, zip(*count(config, bucket).values(), strict=True)))


def count_loss(loss: Callable[..., Array], params: dict[str, Any], *args: Any) -> dict[str, Flops]:
    """Counts the operations of a loss and of its gradient by the parameters, for each module.

    A layer costs one product in the forward pass. In the backward pass it costs one product for
    the gradient of its parameters, and one for the cotangent of its input if that is needed.
    Padding counts; the zeros between the cells of a dilated map do not. The body of a `scan`
    counts once per iteration, the body of a ``while`` loop once. A `cond` counts its most
    expensive branch, platform-dependent code its default, and a `shard_map` the share of one
    device. Dead code and rematerialised activations do not count.

    Args:
        loss: Takes ``params`` and ``args``, and returns a scalar.
        params: Arrays or their shapes, by module; each module runs in a named scope of its name.
        args: Arrays or their shapes.
    """
    jaxpr = jax.make_jaxpr(jax.value_and_grad(loss))(params, *args).jaxpr
    value_alone = [True] + [False] * (len(jaxpr.outvars) - 1)
    forward, _ = _count(jaxpr, value_alone, "")
    training, _ = _count(jaxpr, [True] * len(jaxpr.outvars), "")
    forward, training = _operations(forward, params), _operations(training, params)
    return {module: Flops(forward[module], training[module]) for module in params}


def _operations(products: Counter[str], modules: Collection[str]) -> Counter[str]:
    """Sums the operations by the outermost module of their scope."""
    found = Counter()
    for scopes, number in products.items():
        names = re.split(r"[/().]", scopes)
        owner = next((name for name in names if name in modules), None)
        # `jax.checkpoint` rematerialises activations in a scope of this name.
        if owner and "rematted_computation" not in names:
            found[owner] += 2 * number
    return found


def _count(jaxpr: Jaxpr, needed: Sequence[bool], scopes: str) -> Counted:
    """The multiplications for the needed results of a jaxpr, and the arguments they read."""
    products = Counter()
    alive = _chosen(jaxpr.outvars, needed)
    for eqn in reversed(jaxpr.eqns):
        results = [variable in alive for variable in eqn.outvars]
        if any(results):
            counted, read = _count_equation(eqn, results, f"{scopes}/{eqn.source_info.name_stack}")
            products.update(counted)
            alive |= _chosen(eqn.invars, read)
    return products, [variable in alive for variable in jaxpr.invars]


def _chosen(atoms: Sequence[Var | Literal], choice: Sequence[bool]) -> set[Var]:
    pairs = zip(atoms, choice, strict=True)
    return {atom for atom, chosen in pairs if chosen and not isinstance(atom, Literal)}


def _count_equation(eqn: JaxprEqn, needed: Sequence[bool], scopes: str) -> Counted:
    name, products, read = eqn.primitive.name, Counter(), [True] * len(eqn.invars)
    if name in PRODUCTS:
        products[scopes] = PRODUCTS[name](eqn)
        return products, read
    if name == "cond":
        return _count_cond(eqn, needed, scopes)
    for inner in jaxprs_in_params(eqn.params):
        arity = len(inner.invars), len(inner.outvars)
        is_call = name not in LOOPS and arity == (len(eqn.invars), len(eqn.outvars))
        if is_call:
            counted, read = _count(inner, needed, scopes)
        else:  # The next iteration of a loop may read any result.
            counted, _ = _count(inner, [True] * len(inner.outvars), scopes)
        products.update(counted)
    if name == "scan":
        products = Counter({key: eqn.params["length"] * n for key, n in products.items()})
    return products, read


def _count_cond(eqn: JaxprEqn, needed: Sequence[bool], scopes: str) -> Counted:
    """The multiplications of the most expensive branch, and the arguments that any branch reads."""
    branches, platforms = eqn.params["branches"], eqn.params.get("branches_platforms", ())
    if None in platforms:  # The default branch of `jax.lax.platform_dependent`.
        branches = [branches[platforms.index(None)]]
    counted = [_count(branch.jaxpr, needed, scopes) for branch in branches]
    products = max((of_branch for of_branch, _ in counted), key=Counter.total)
    read_by_branch = [read for _, read in counted]
    read_by_any = [any(choices) for choices in zip(*read_by_branch, strict=True)]
    return products, [True, *read_by_any]  # The predicate is always read.


def _dot_products(eqn: JaxprEqn) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    shape = eqn.invars[0].aval.shape
    return eqn.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)


def _conv_products(eqn: JaxprEqn) -> int:
    kernel, result = eqn.invars[1].aval, eqn.outvars[0].aval
    outputs, *_ = eqn.params["dimension_numbers"].rhs_spec
    # The kernel has the input channels of one group, for feature groups and batch groups alike.
    products = result.size * (kernel.size // kernel.shape[outputs])
    # On a dilated map all but one in `prod(lhs_dilation)` positions under the kernel are zeros.
    return products // math.prod(eqn.params["lhs_dilation"])


PRODUCTS = {"dot_general": _dot_products, "conv_general_dilated": _conv_products}
