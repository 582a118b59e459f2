"""Class labels that a network attends to."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cfg_jax import parts
from cfg_jax.conditions.label import Label
from cfg_jax.diffusion import checks


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttendedLabel(Label):
    """A class label as a sequence of one learned vector, which the network attends to.

    So latent diffusion is told of ImageNet's classes (Rombach et al. 2022, "High-Resolution Image
    Synthesis with Latent Diffusion Models", Section 3.3); a `Label` is added to the embedding of λ.

    Attributes:
      width: Length of each class's vector, from 1 to 1,000,000.

    The other attributes are those of `Label`.

    Raises:
      ValueError: A value is out of range, or there is no null.

    >>> from cfg_jax.conditions import AttendedLabel
    >>> AttendedLabel(num_classes=10, width=8).inlet
    Sequence(length=1, width=8, masked=False)
    """

    width: int = 512

    def __post_init__(self):
        super().__post_init__()
        checks.whole("width", self.width, 1, 1_000_000)
        if not self.has_null:
            raise ValueError("has_null must be True: an AttendedLabel has a vector for none")

    @property
    def inlet(self) -> Any:
        """One vector."""
        return parts.Sequence(1, self.width)

    @property
    def encoder(self) -> nn.Embed:
        """A vector a class, the null among them."""
        first = nn.initializers.normal(1.0)
        return nn.Embed(self._count + self.has_null, self.width, embedding_init=first)

    def begun(self, key: jax.Array) -> Any:
        """The vectors before training."""
        return self.encoder.init(key, jnp.zeros(1, jnp.int32))

    def encoded(self, params: Mapping[str, Any], entry: Any) -> Any:
        """The labels' vectors."""
        vectors: Any = self.encoder.apply(params["encoder"], entry)
        return vectors[:, None]
