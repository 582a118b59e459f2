"""TPU chips by the figures that bound a step: peak arithmetic, memory, links.

| chip | bf16 FLOP/s | HBM | of it usable | HBM bytes/s | sent bytes/s | published in |
| --- | ---: | ---: | ---: | ---: | ---: | --- |
| v4 | 275e12 | 32 GiB | 30.75 GiB | 1,200e9 | 300e9 | cloud.google.com/tpu/docs/v4; links: [1] |
| v5e | 197e12 | 16 GB | 15.75 GiB | 819e9 | 200e9 | cloud.google.com/tpu/docs/v5e |
| v5p | 459e12 | 95 GB | 95.74 GiB | 2,765e9 | 600e9 | cloud.google.com/tpu/docs/v5p |
| v6e | 918e12 | 32 GB | 31.25 GiB | 1,638e9 | 400e9 | cloud.google.com/tpu/docs/v6e |

Sent bytes/s are those of all of a chip's links together in one direction, half of the bidirectional
bandwidth that is published. Usable memory is what the compiler (libtpu 0.0.42) lets a program have;
it says so when it refuses one.

[1] Jouppi et al. 2023, "TPU v4: An Optically Reconfigurable Supercomputer for Machine Learning with
Hardware Support for Embeddings", Table 4: six links of 50 GB/s.
"""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of chip.

    Attributes:
      name: As Google names it.
      flops: Peak bf16 FLOP/s.
      hbm: Bytes of memory that a program can have.
      bandwidth: Bytes/s between memory and the chip.
      links: Bytes/s that it sends over all its links.
      dimensions: Of the torus that its pods are.
    """

    name: str
    flops: float
    hbm: float
    bandwidth: float
    links: float
    dimensions: int


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 275e12, 30.75 * GIB, 1200e9, 300e9, 3),
        Chip("v5e", 197e12, 15.75 * GIB, 819e9, 200e9, 2),
        Chip("v5p", 459e12, 95.74 * GIB, 2765e9, 600e9, 3),
        Chip("v6e", 918e12, 31.25 * GIB, 1638e9, 400e9, 2),
    )
}
