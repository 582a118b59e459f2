"""What tests of networks share: random variables, and images enlarged in float64."""

import jax
import jax.numpy as jnp
import numpy as np


def random_variables(module, *args):
    """Random values for every parameter, the zero-initialised too; compiles no initialiser."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *args)
    rng = np.random.default_rng(1)

    def values(leaf):
        spread = 1 / np.sqrt(np.prod(leaf.shape[:-1])) if len(leaf.shape) > 1 else 0.5
        return jnp.asarray(rng.normal(size=leaf.shape) * spread, leaf.dtype)

    return jax.tree.map(values, shapes)


def bilinear(small, factor):
    """Each new pixel between the centres of the old ones, those at the edge repeated; float64."""

    def along(x, axis):
        count = x.shape[axis]
        place = np.clip((np.arange(factor * count) + 0.5) / factor - 0.5, 0, count - 1)
        low = np.floor(place).astype(int)
        high = np.minimum(low + 1, count - 1)
        share = (place - low).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
        return x.take(low, axis) * (1 - share) + x.take(high, axis) * share

    return along(along(np.asarray(small, np.float64), 1), 2)
