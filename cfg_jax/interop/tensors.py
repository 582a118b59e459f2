"""Tensors of another project's file, compared with those that a network has."""

from collections.abc import Mapping

NAMED = 3
"""So many tensors are named in a message; the others are counted."""


def check_shapes(
    given: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]
) -> None:
    """Raises ValueError where a checkpoint's names or shapes are not those of the network.

    The message counts the tensors that are missing, unexpected and of another shape, and names the
    first few of each.

    >>> from cfg_jax.interop.tensors import check_shapes
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
