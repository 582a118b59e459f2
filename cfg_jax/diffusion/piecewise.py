"""Denoisers that are one thing in one range of λ and another elsewhere, resolved before the scan.

The levels of a reverse process are static, and so are the bounds of such ranges: the sampler cuts
its scan where a range begins and ends, and each piece holds only the networks that it needs.
Because a denoiser is a pytree, the nodes that switch are found wherever they lie within it.
"""

from typing import Any, Protocol, runtime_checkable

import jax
from jaxtyping import ArrayLike

from cfg_jax.diffusion.denoiser import Denoiser


@runtime_checkable
class Piecewise(Protocol):
    """A node of a denoiser that switches at fixed levels; its bounds are static.

    Between two breaks it is one and the same; a break itself belongs to its cleaner side.
    """

    def breaks(self) -> tuple[float, ...]:
        """The levels λ where it switches, finite ones only."""

    def at(self, logsnr: float) -> Denoiser:
        """What it is at a level that is known before anything is compiled."""

    def held(self, level: ArrayLike) -> Denoiser:
        """What it is at a level that is traced, a scalar or (batch,), at whatever λ it is asked."""


def _is_piecewise(node: Any) -> bool:
    return isinstance(node, Piecewise)


def breaks(denoiser: Denoiser) -> tuple[float, ...]:
    """All levels at which any part of a denoiser switches, ascending."""
    nodes = jax.tree.leaves(denoiser, is_leaf=_is_piecewise)
    found: set[float] = set()
    for node in filter(_is_piecewise, nodes):
        found.update(node.breaks())
    return tuple(sorted(found))


def at(denoiser: Denoiser, logsnr: float) -> Denoiser:
    """The denoiser with every part that switches replaced by what it is at one level."""

    def choose(node):
        return at(node.at(logsnr), logsnr) if _is_piecewise(node) else node

    return jax.tree.map(choose, denoiser, is_leaf=_is_piecewise)


def held(denoiser: Denoiser, level: ArrayLike) -> Denoiser:
    """The denoiser with every part that switches held to what it is at a traced level."""

    def hold(node):
        return node.held(level) if _is_piecewise(node) else node

    return jax.tree.map(hold, denoiser, is_leaf=_is_piecewise)
