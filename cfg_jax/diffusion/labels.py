"""The log-probability of labels under logits."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def label_log_prob(
    logits: Float[Array, "batch classes"], label: Int[Array, " batch"]
) -> Float[Array, " batch"]:
    """The log-probability that logits give each example's own label, in nats.

    >>> import jax.numpy as jnp
    >>> from cfg_jax.diffusion.labels import label_log_prob
    >>> round(float(label_log_prob(jnp.zeros((1, 4)), jnp.array([2]))[0]), 4)
    -1.3863
    """
    return jnp.take_along_axis(jax.nn.log_softmax(logits), label[:, None], axis=1)[:, 0]
