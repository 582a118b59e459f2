"""Floating-point operations of a traced program, and how many a second a device here makes.

Only convolutions and matrix products are counted. XLA counts the body of a loop once; here a `scan`
counts as often as it runs. A multiplication and an addition are two. Of a convolution only what
meets the image is counted, not the padding, as XLA does:

    2 · batch · channels out · channels in / groups · Π_d #{(output, tap) : the tap is in the image}
"""

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core


def count(jaxpr: Any) -> int:
    """Floating-point operations of one call.

    Args:
      jaxpr: A `Jaxpr` or `ClosedJaxpr`, such as `jax.jit(f).trace(*args).jaxpr`. What is inside a
        `shard_map` counts for every device of its mesh; of a `cond` the longest branch does.

    Returns:
      The number of operations, over all devices.

    Raises:
      ValueError: There are products in a `while` loop, whose length the program does not say.
    """
    inner = getattr(jaxpr, "jaxpr", jaxpr)
    used = _variables(inner.outvars)
    total = 0
    for equation in reversed(inner.eqns):
        if equation.effects or used.intersection(equation.outvars):  # else the compiler drops it
            used |= _variables(equation.invars)
            total += _operations(equation)
    return total


def matmul_rate(dtype: Any, *, repeats: int = 10) -> float:
    """What one device makes of two large matrices' product, measured: the median over repeats.

    Args:
      dtype: Of the matrices.
      repeats: How often it is timed.

    Returns:
      Floating-point operations a second.
    """
    size = 2048 if jax.default_backend() == "cpu" else 8192
    a = jax.random.normal(jax.random.key(0), (size, size), dtype)
    product = jax.jit(lambda a: a @ a)
    jax.block_until_ready(product(a))
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(product(a))
        taken.append(time.perf_counter() - started)
    return 2.0 * size**3 / statistics.median(taken)


def _variables(atoms: Sequence[Any]) -> set[Any]:
    return {atom for atom in atoms if not isinstance(atom, core.Literal)}


def _operations(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _product(equation)
    if name == "conv_general_dilated":
        return _convolution(equation)
    inner = [count(jaxpr) for jaxpr in _inner(params)]
    if name == "scan":
        return params["length"] * sum(inner)
    if name == "shard_map":
        return params["mesh"].size * sum(inner)
    if name == "cond":
        return max(inner)
    if name == "while" and any(inner):
        raise ValueError("operations in a while loop cannot be counted: use a scan")
    return sum(inner)


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    """The programs within an equation's parameters."""
    for value in params.values():
        for entry in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(entry, (core.Jaxpr, core.ClosedJaxpr)):
                yield entry


def _product(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    return 2 * math.prod(out) * math.prod(left[i] for i in contracted)


def _convolution(equation: Any) -> int:
    params, (image, kernel) = equation.params, (v.aval.shape for v in equation.invars)
    out, numbers = equation.outvars[0].aval.shape, params["dimension_numbers"]
    taps = 1
    for d, (i, k, o) in enumerate(
        zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:], strict=True)
    ):
        # Where each output's taps fall in the dilated, unpadded image.
        at = (
            np.arange(out[o])[:, None] * params["window_strides"][d]
            + np.arange(kernel[k]) * params["rhs_dilation"][d]
            - params["padding"][d][0]
        )
        dilation = params["lhs_dilation"][d]
        inside = (at >= 0) & (at <= (image[i] - 1) * dilation) & (at % dilation == 0)
        taps *= int(inside.sum())
    batch, features = out[numbers.out_spec[0]], out[numbers.out_spec[1]]
    return 2 * batch * features * kernel[numbers.rhs_spec[1]] * taps
