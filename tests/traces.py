"""Reads traced programs: what a loop or a gather takes."""

from collections.abc import Iterator

from jax.extend.core import Jaxpr, JaxprEqn, jaxprs_in_params


def equations(jaxpr: Jaxpr, primitive: str) -> Iterator[JaxprEqn]:
    """All equations of a primitive, also of the programs inside loops, branches and calls."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == primitive:
            yield eqn
        for inner in jaxprs_in_params(eqn.params):
            yield from equations(inner, primitive)


def operand_shapes(jaxpr: Jaxpr, primitive: str) -> list[tuple[int, ...]]:
    """The shapes of all operands of these equations."""
    return [operand.aval.shape for eqn in equations(jaxpr, primitive) for operand in eqn.invars]
