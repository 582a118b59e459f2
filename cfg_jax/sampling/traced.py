"""A reverse process as it was traced: what a function that tells nothing of itself came to."""

from collections.abc import Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jaxtyping import Array


class TracedProgram:
    """A program as it was traced; the arrays it held travel as arguments.

    It is known by its text, and by the functions that it calls back on the host, which the text
    does not tell apart.
    """

    def __init__(self, closed: ClosedJaxpr):
        self.jaxpr = closed.jaxpr
        self.known_by = (str(closed.jaxpr), tuple(_callbacks(closed.jaxpr)))

    def __eq__(self, other):
        return isinstance(other, TracedProgram) and self.known_by == other.known_by

    def __hash__(self):
        return hash(self.known_by[0])

    def __call__(self, shared: Any, batched: Any, key: jax.Array) -> Array:
        """Runs it."""
        run = jaxpr_as_fun(ClosedJaxpr(self.jaxpr, shared.held))
        return run(*jax.tree.leaves((shared._replace(held=()), batched, key)))[0]


def _callbacks(jaxpr: Any) -> Iterator[Any]:
    """The functions on the host that a program calls back, wherever it does."""
    for equation in jaxpr.eqns:
        if "callback" in equation.params:
            yield equation.params["callback"]
        for value in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _callbacks(inner)
