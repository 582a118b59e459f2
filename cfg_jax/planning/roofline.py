"""The least time that a program can take on given chips: the roofline.

    seconds = max( FLOPs / (u · peak), bytes from and to memory / bandwidth, bytes sent / links )

where u is the part of the peak that the arithmetic reaches. Nothing is faster than u = 1 (Williams,
Waterman & Patterson 2009, "Roofline: An Insightful Visual Performance Model", Section 3).
"""

from typing import NamedTuple

from cfg_jax.planning.analysis import Analysis
from cfg_jax.planning.topology import Topology


class Roofline(NamedTuple):
    """Seconds that one call takes, were it bound by one thing alone.

    Attributes:
      arithmetic: At the peak.
      memory: Traffic between it and the chip.
      links: What the chip sends to others, over all of its links.
    """

    arithmetic: float
    memory: float
    links: float

    @property
    def bound(self) -> str:
        """What takes the longest: arithmetic, memory or links."""
        return max(self._fields, key=lambda name: getattr(self, name))

    def seconds(self, utilisation: float = 1.0) -> float:
        """The least time, with the arithmetic at a part of its peak.

        Args:
          utilisation: u, in (0, 1].
        """
        return max(self.arithmetic / utilisation, self.memory, self.links)


def roofline(analysis: Analysis, topology: Topology) -> Roofline:
    """The roofline of a program that fits."""
    chip, chips = topology.chip, len(topology.devices)
    return Roofline(
        arithmetic=analysis.flops / chips / chip.flops,
        memory=analysis.accessed / chip.bandwidth,
        links=analysis.sent / chip.links,
    )
