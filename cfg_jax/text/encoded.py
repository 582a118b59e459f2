"""What a text encoder gives, and the rows of a long text put together."""

from typing import NamedTuple

from jaxtyping import Array, Float

from cfg_jax.diffusion.checks import whole


class Encoded(NamedTuple):
    """What a text encoder gives for a batch of rows, all of it float32.

    Attributes:
      states: The embeddings and the state after each layer, none of them normalised.
      last: The last state after the final norm.
      sequence: What a network attends to: the state that the encoder's fields choose.
      pooled: One vector a row; None of an encoder that has none, as T5.
    """

    states: tuple[Float[Array, "batch length width"], ...]
    last: Float[Array, "batch length width"]
    sequence: Float[Array, "batch length width"]
    pooled: Float[Array, "batch _"] | None


def joined(encoded: Encoded, rows: int) -> Encoded:
    """Puts the rows of each long text one behind the other; its pooled vector is the first row's.

    Args:
      encoded: Of a batch of texts times rows, those of a text next to each other.
      rows: How many rows each text has, see `Tokenizer.chunks`.

    Raises:
      ValueError: rows does not divide the batch.

    >>> import jax.numpy as jnp
    >>> from cfg_jax.text import Encoded, joined
    >>> x = jnp.arange(4.0).reshape(4, 1, 1)
    >>> long = joined(Encoded((x,), x, x, x[:, 0]), 2)
    >>> long.sequence[..., 0].tolist(), long.pooled.tolist()
    ([[0.0, 1.0], [2.0, 3.0]], [[0.0], [2.0]])
    """
    batch = len(encoded.last)
    whole("rows", rows, 1)
    if batch % rows:
        raise ValueError(f"rows must divide the batch: {batch} is no multiple of {rows}")

    def behind(x: Float[Array, "batch length width"]) -> Float[Array, "texts _ width"]:
        return x.reshape(batch // rows, -1, x.shape[-1])

    return Encoded(
        tuple(behind(state) for state in encoded.states),
        behind(encoded.last),
        behind(encoded.sequence),
        None if encoded.pooled is None else encoded.pooled[::rows],
    )
