"""FLOPs of a traced function's matrix products, loops as often as they run."""

import math
from collections.abc import Iterator
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr


def product_flops(jaxpr: Any, open_loops: int) -> float:
    """Two for each multiplication and addition; `open_loops` is how often a loop runs whose end depends on its data.

    Of all devices together, as the function says it, whatever a compiler makes of it. Of branches it is the one with
    most: for the longest texts.
    """
    jaxpr = jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
    total = 0.0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            contracted = equation.params["dimension_numbers"][0][0]
            left = equation.invars[0].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
        times = {"scan": equation.params.get("length", 1), "while": open_loops}.get(name, 1)
        inner = [product_flops(each, open_loops) for each in _inner(equation.params)]
        total += max(inner) if name == "cond" else times * sum(inner)
    return total


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    """The functions that an equation calls."""
    for value in params.values():
        for each in value if isinstance(value, tuple | list) else [value]:
            if isinstance(each, ClosedJaxpr | Jaxpr):
                yield each
