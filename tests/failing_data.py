"""Data that tear while they are read, and a network that compiles at once."""

import dataclasses
from typing import Any

import flax.linen as nn

from cfg_jax.data import Digits
from cfg_jax.data.dataset import Dataset, Kind, UnreadableError


@dataclasses.dataclass(frozen=True)
class TornSource:
    """Examples of another source, of which all that are asked for late cannot be read."""

    whole: Any
    asked: list[int] = dataclasses.field(default_factory=list)

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.asked.append(index)
        if len(self.asked) > 1000:
            raise UnreadableError(f"example {index} is torn")
        return {name: array[index] for name, array in self.whole.arrays.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Torn(Kind):
    """The digits; torn where `dir`, which processes need not have in common, says so."""

    dir: str = ""

    def open(self, split: str) -> Dataset:
        """As `Kind.open`."""
        data = Digits(workers=self.workers).open(split)
        if self.dir == "torn":
            data = dataclasses.replace(data, source=TornSource(data.source))
        return data


class Dot(nn.Module):
    """Scales each pixel by itself."""

    takes = ("label",)

    @nn.compact
    def __call__(self, z, logsnr, cond):
        return nn.Dense(z.shape[-1])(z)
