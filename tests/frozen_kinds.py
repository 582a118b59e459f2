"""Kinds with parameters that are not trained: a codec's, a conditioner's, an objective's."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cfg_jax import parts, recipe
from cfg_jax.objectives import Denoising


class Rotated(nn.Module):
    """Columns turned into one another by a matrix that is read, not trained."""

    side: int = 8
    bound = None

    def setup(self):
        self.turn = self.param("turn", nn.initializers.orthogonal(), (self.side, self.side))

    def encode(self, x):
        return jnp.einsum("bhwc,wv->bhvc", x, self.turn)

    def decode(self, z):
        return jnp.einsum("bhvc,wv->bhwc", z, self.turn)

    def frozen(self):
        zeros = jnp.zeros((1, self.side, self.side, 1))
        return self.init(jax.random.key(5), zeros, method="encode")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embedded(parts.Conditioner):
    """A label as a row of a table that is read, not trained."""

    p_uncond: float = 0.1

    @property
    def inlet(self):
        return parts.Vector(4)

    @property
    def null(self):
        return 0.0

    def frozen(self):
        return {"table": jnp.asarray(np.random.default_rng(3).normal(size=(10, 4)), jnp.float32)}

    def read(self, params, batch, x):
        return params["table"][batch["label"]]

    def given(self, value, params=None):
        return params["table"][jnp.asarray(value)]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Anchored(Denoising):
    """The denoising error, and a distance to what is read before training."""

    anchor: Any = dataclasses.field(default=None, metadata=parts.BOUND)

    def ready(self):
        return dataclasses.replace(self, anchor={"shift": jnp.full((8, 8, 1), 0.1)})

    def losses(self, ask, drawn):
        own = super().losses(ask, drawn)
        said = ask(drawn.x, drawn.logsnr, drawn.cond)
        return own + 0.1 * jnp.mean(jnp.square(said - self.anchor["shift"]), axis=(1, 2, 3))


def tiny_frozen():
    """The tiny recipe with all three, by AdamW."""
    from recipes import tiny

    config = tiny()
    config.codec = recipe.node(Rotated)
    config.condition.label = None
    config.condition.word = recipe.node(Embedded)
    config.objective = recipe.node(Anchored)
    config.optimiser.weight_decay = 0.1
    return config
