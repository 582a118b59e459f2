"""Pictures larger than what is shown of them: windows of one shape, at places or in the middle."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from cfg_jax.data.dataset import Source


@dataclasses.dataclass(frozen=True)
class Windowed:
    """Pictures of which a window is shown: the one in the middle, but `batches` cuts at random.

    Attributes:
      source: Examples whose "x" is at least as high and wide as the window, each as it is.
      shape: The window's (height, width, channels).
    """

    source: Source
    shape: tuple[int, ...]

    varies = True

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._cut(index, None)

    def at(self, index: int, place: Float[np.ndarray, "2"]) -> dict[str, Any]:
        """An example with the window at a place: from [0, 1), of all from the top and left on."""
        return self._cut(index, place)

    def _cut(self, index: int, place: Float[np.ndarray, "2"] | None) -> dict[str, Any]:
        example = self.source[index]
        x = example["x"]
        room = np.subtract(x.shape[:2], self.shape[:2])
        top, left = room // 2 if place is None else (place * (room + 1)).astype(int)
        height, width = self.shape[:2]
        return {**example, "x": x[top : top + height, left : left + width]}
