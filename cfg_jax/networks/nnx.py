"""Networks written in Flax NNX, as the Linen modules that everything else here expects."""

import functools
import inspect
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx, traverse_util
from jaxtyping import Array, ArrayLike

from cfg_jax.parts import Condition, Prediction


class FromNNX(nn.Module):
    """A network that is an NNX module; see `from_nnx`, which makes it.

    Attributes:
      kind: The class of the module.
      fields: What it is constructed with, as (name, value) pairs, without `rngs`.
    """

    kind: Any
    fields: tuple[tuple[str, Any], ...] = ()

    @nn.compact
    def __call__(
        self, z: Array, logsnr: ArrayLike, cond: Condition | None = None, *, train: bool = False
    ) -> Array | Prediction:
        """What the module's call returns.

        Args:
          z: z_λ of (batch, ...).
          logsnr: λ, a scalar or (batch,).
          cond: The condition.
          train: Whether dropout is on, which then needs a "dropout" rng. Passed on if the module's
            call has an argument of that name.
        """
        graph, abstract, streams = _split(_abstract(self.kind, self.fields))
        params = self.param("module", self._initialised)
        key = self.make_rng("dropout") if train and self.has_rng("dropout") else jax.random.key(0)
        module = nnx.merge(graph, _valued(abstract, params), _seeded(streams, key))
        module.train() if train else module.eval()
        told = {"train": train} if "train" in _arguments(self.kind.__call__) else {}
        return module(z, logsnr, {} if cond is None else cond, **told)

    @nn.nowrap
    def _initialised(self, key: jax.Array) -> Any:
        """Fresh parameters, as nested dictionaries with words for keys."""
        _, params, _ = _split(_made(self.kind, self.fields, key))
        flat = {_words(path): variable[...] for path, variable in nnx.to_flat_state(params)}
        return traverse_util.unflatten_dict(flat)

    @property
    def takes(self) -> tuple[str, ...]:
        """The names of the entries that the module takes in its condition."""
        return tuple(getattr(_abstract(self.kind, self.fields), "takes", ()))

    @property
    def predicts(self) -> str | None:
        """What the module predicts, if that is a single thing."""
        return getattr(_abstract(self.kind, self.fields), "predicts", None)


def from_nnx(kind: type[nnx.Module], /, **fields: Any) -> FromNNX:
    """A network that is an NNX module, as a Linen module: equal for equal arguments.

    The module is called as `(z, logsnr, cond)`, and with `train` where its signature has it. Its
    `takes` and `predicts` are the network's. Its variables are parameters, `nnx.Param`, and the
    streams of random numbers that dropout draws from.

    Args:
      kind: The class of the module.
      **fields: What it is constructed with, hashable, beside `rngs`.

    Raises:
      ValueError: The class is not an NNX module, a field cannot be hashed, or the module has
        variables of other kinds, such as the running statistics of a batch norm.

    >>> import jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> from cfg_jax.networks import from_nnx
    >>> class Net(nnx.Module):
    ...     def __init__(self, width, rngs):
    ...         self.dense = nnx.Linear(width, width, rngs=rngs)
    ...     def __call__(self, z, logsnr, cond):
    ...         return self.dense(z)
    >>> net = from_nnx(Net, width=3)
    >>> params = net.init(jax.random.key(0), jnp.ones((2, 3)), 0.0)
    >>> net.apply(params, jnp.ones((2, 3)), 0.0).shape
    (2, 3)
    """
    if not (isinstance(kind, type) and issubclass(kind, nnx.Module)):
        raise ValueError(f"from_nnx takes a class of flax.nnx.Module, got {kind!r}")
    network = FromNNX(kind, tuple(sorted(fields.items())))
    try:
        hash(network)
    except TypeError:
        raise ValueError(f"the fields of {kind.__name__} must be hashable, got {fields}") from None
    _split(_abstract(kind, network.fields))
    return network


def _arguments(function: Any) -> Any:
    return inspect.signature(function).parameters


def _made(kind: Any, fields: tuple[tuple[str, Any], ...], key: jax.Array) -> Any:
    rngs = {"rngs": nnx.Rngs(key)} if "rngs" in _arguments(kind.__init__) else {}
    return kind(**dict(fields), **rngs)


@functools.lru_cache
def _abstract(kind: Any, fields: tuple[tuple[str, Any], ...]) -> Any:
    """The module with shapes in the place of arrays."""
    return nnx.eval_shape(lambda: _made(kind, fields, jax.random.key(0)))


def _split(module: Any) -> tuple[Any, Any, Any]:
    """Structure, parameters and random streams of a module.

    Raises:
      ValueError: It has variables of other kinds.
    """
    graph, *states = nnx.split(module, nnx.Param, nnx.RngState, ...)
    params, streams, others = states
    kinds = sorted({type(variable).__name__ for _, variable in nnx.to_flat_state(others)})
    if kinds:
        raise ValueError(
            f"{type(module).__name__} has variables that are no parameters, {', '.join(kinds)}: "
            "only nnx.Param is trained and kept"
        )
    return graph, params, streams


def _words(path: tuple[Any, ...]) -> tuple[str, ...]:
    """The path of a variable, the places of lists as words too."""
    return tuple(map(str, path))


def _valued(abstract: Any, params: Any) -> Any:
    """The state of parameters with the values of nested dictionaries."""
    values = traverse_util.flatten_dict(params)
    return nnx.from_flat_state(
        (path, variable.replace(values[_words(path)]))
        for path, variable in nnx.to_flat_state(abstract)
    )


def _seeded(streams: Any, key: jax.Array) -> Any:
    """Random streams that begin anew, from one key."""
    leaves, structure = jax.tree.flatten(streams)
    begun = [
        jax.random.fold_in(key, number)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else jnp.zeros(leaf.shape, leaf.dtype)
        for number, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, begun)
