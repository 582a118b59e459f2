"""Tensors and configs of another project's files, compared with what a network has."""

from collections.abc import Mapping
from typing import Any

from cfg_jax.diffusion.checks import told

Path = tuple[str, ...]
"""Where an array lies among our parameters: ("down0_0", "Conv_0", "Conv_0", "kernel")."""

LEAVES = {"scale": "weight", "kernel": "weight", "embedding": "weight", "bias": "bias"}
"""What torch calls the arrays of a module of ours."""

NAMED = 3
"""So many tensors are named in a message; the others are counted."""


def check_shapes(
    given: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]
) -> None:
    """Raises ValueError where a checkpoint's names or shapes are not those of the network.

    The message counts the tensors that are missing, unexpected and of another shape, and names the
    first few of each.

    >>> from cfg_jax.runtime.tensors import check_shapes
    >>> check_shapes({"a": (2,)}, {"a": (3,)})
    Traceback (most recent call last):
    ValueError: the tensors are of another architecture: 1 of another shape (a (2,) for (3,))
    """
    other = [
        f"{name} {given[name]} for {wanted[name]}"
        for name in wanted
        if name in given and given[name] != wanted[name]
    ]
    wrong = {
        "missing": [name for name in wanted if name not in given],
        "unexpected": [name for name in given if name not in wanted],
        "of another shape": other,
    }
    found = [f"{len(names)} {what} ({_few(names)})" for what, names in wrong.items() if names]
    if found:
        raise ValueError(f"the tensors are of another architecture: {'; '.join(found)}")


def _few(names: list[str]) -> str:
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + rest


def require(config: Mapping[str, Any], field: str, wanted: Any) -> None:
    """Raises ValueError unless a field, where it is given, has the one value that we know.

    >>> from cfg_jax.runtime.tensors import require
    >>> require({"act_fn": "silu"}, "act_fn", "silu")
    >>> require({"eps": 1e-6}, "eps", 1e-5)
    Traceback (most recent call last):
    ValueError: eps must be 1e-05, got 1e-06
    """
    given = config.get(field, wanted)
    if given != wanted:
        raise ValueError(f"{field} must be {wanted!r}, got {told(given)}")
