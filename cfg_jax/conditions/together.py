"""What all conditioners of a model do together: a condition, its null, and who is hidden."""

import contextlib
import functools
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from cfg_jax.diffusion import condition
from cfg_jax.diffusion.condition import KEPT, PerExample
from cfg_jax.parts import Condition, Conditioner, Inlets

Conditioners = tuple[tuple[str, Conditioner], ...]
"""The conditioners of a model by their entries' names."""

ENCODERS = "encoders"
"""The collection of the network's variables that holds those of the conditioners' encoders."""


def inlets(conditioners: Conditioners) -> Inlets:
    """How a network is shown the entries."""
    return tuple((name, made.inlet) for name, made in conditioners)


def null(conditioners: Conditioners) -> dict[str, Any]:
    """What guidance puts in the condition's place; `KEPT` for entries that it does not hide."""
    return {
        name: made.null if made.guided and made.null is not None else KEPT
        for name, made in conditioners
    }


def hidden_null(conditioners: Conditioners) -> dict[str, Any]:
    """What stands for none in training; `KEPT` for entries that are never hidden."""
    return {
        name: made.null if made.p_uncond and made.null is not None else KEPT
        for name, made in conditioners
    }


def named(conditioners: Conditioners, cond: Any, entries: Mapping[str, Any]) -> dict[str, Any]:
    """What a person gives, by entries' names: all of them, and no others.

    Args:
      conditioners: The conditioners.
      cond: The single entry of a model that has one conditioner, a dictionary of entries, or None.
      entries: Entries by name.

    Raises:
      ValueError: One is missing or unknown, or nothing says which one `cond` is.
    """
    names = [name for name, _ in conditioners]
    if isinstance(cond, Mapping):
        if twice := [name for name in entries if name in cond]:
            raise ValueError(f"{twice[0]} is given twice")
        entries = {**cond, **entries}
    elif cond is not None:
        if len(names) != 1 or entries:
            takes = ", ".join(f"{name}=…" for name in names) or "none"
            raise ValueError(f"name the entries of the condition: {takes}")
        entries = {names[0]: cond}
    found = {name: value for name, value in entries.items() if value is not None}
    _check_names(conditioners, found)
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"the model needs {missing[0]}=…, one an example")
    return found


def given(
    conditioners: Conditioners, params: Mapping[str, Any], entries: Mapping[str, Any]
) -> Condition:
    """Some entries, each as its conditioner makes it of what a person gives, (batch, ...)."""
    _check_names(conditioners, entries)
    return {
        name: made.given(entries[name], params.get(name))
        for name, made in conditioners
        if name in entries
    }


def encoded_null(
    conditioners: Conditioners, encode: Callable[[Condition], Condition]
) -> dict[str, Any]:
    """What guidance puts in the condition's place, as the network is shown it."""
    nulls = null(conditioners)
    raw = {
        name: nulls[name]
        for name, made in conditioners
        if made.encoder is not None and nulls[name] is not KEPT
    }
    shown = encode(condition.one(raw))
    return {**nulls, **jax.tree.map(lambda leaf: leaf[0], shown)}


def encoded(
    conditioners: Conditioners,
    variables: Mapping[str, Any],
    frozen: Mapping[str, Any],
    cond: Condition,
) -> Condition:
    """What the network is shown of a condition, each entry through its encoder if it has one.

    Args:
      conditioners: The conditioners.
      variables: The network's, those of the encoders among them.
      frozen: What each conditioner's `frozen` and `learned` returned.
      cond: Some entries of (batch, ...).
    """
    trained = variables.get(ENCODERS, {})
    return cond | {
        name: _encoded(made, {**frozen.get(name, {}), **trained.get(name, {})}, cond[name])
        for name, made in conditioners
        if made.encoder is not None and name in cond
    }


@functools.partial(jax.jit, static_argnums=0)
def _encoded(made: Conditioner, params: Mapping[str, Any], entry: Any) -> Any:
    """An entry through its encoder: compiled once for as many examples, whatever they say."""
    return made.encoded(params, entry)


def negative(conditioners: Conditioners, nulls: Mapping[str, Any], entries: Condition) -> Any:
    """The null, with entries in its place: one for all examples, or one an example."""
    if not entries:
        return nulls
    count = condition.batch_size(entries)
    if count == 1:
        return {**nulls, **jax.tree.map(lambda leaf: leaf[0], entries)}
    specs = {name: made.inlet.spec for name, made in conditioners}

    def batched(name: str, none: Any) -> Any:
        if none is KEPT:
            return KEPT
        return jax.tree.map(
            lambda leaf, spec: jnp.broadcast_to(
                jnp.asarray(leaf, spec.dtype), (count, *spec.shape)
            ),
            none,
            specs[name],
        )

    return PerExample({**{name: batched(name, none) for name, none in nulls.items()}, **entries})


def _check_names(conditioners: Conditioners, entries: Mapping[str, Any]) -> None:
    names = [name for name, _ in conditioners]
    surplus = [name for name in entries if name not in names]
    if surplus:
        raise ValueError(f"the model takes {', '.join(names) or 'no condition'}; got {surplus[0]}")


def tokenised(
    conditioners: Conditioners,
    params: Mapping[str, Any],
    batches: Generator[dict[str, Any], None, None],
    texts: Iterable[str],
) -> Generator[dict[str, Any], None, None]:
    """Batches of training with each text as its conditioner makes it, on the host; others go.

    Args:
      conditioners: The conditioners.
      params: What each conditioner's `frozen` returned.
      batches: Batches as the data yield them; closed with this generator.
      texts: The names of what is text in them.
    """
    made = dict(conditioners)
    with contextlib.closing(batches):
        for batch in batches:
            found = {
                name: made[name].given(batch[name].tolist(), params.get(name))
                for name in texts
                if name in made
            }
            yield {**{name: a for name, a in batch.items() if name not in texts}, **found}


def read(
    conditioners: Conditioners, params: Mapping[str, Any], batch: Mapping[str, Any], x: Any
) -> Condition:
    """The condition of a batch of training.

    Raises:
      ValueError: The data lack what an entry is made of.
    """
    return {name: _entry(name, made, params, batch, x) for name, made in conditioners}


def _entry(name: str, made: Conditioner, params: Any, batch: Mapping[str, Any], x: Any) -> Any:
    try:
        return made.read(params.get(name, {}), batch, x)
    except KeyError as error:
        beside = ", ".join(there for there in batch if there not in ("x", "replaced")) or "nothing"
        raise ValueError(
            f"config.condition.{name} is made of {error}, which the data do not have beside x; "
            f"they have {beside}"
        ) from error


def shown(
    conditioners: Conditioners, keys: jax.Array, cond: Condition, schedule: Any, *, training: bool
) -> Condition:
    """What the network is shown of a condition: random, for conditioners that lay noise on it."""
    return {
        name: (made.shown if training else made.sampled)(keys, cond[name], schedule)
        for name, made in conditioners
    }


def hidden(
    keys: jax.Array,
    cond: Condition,
    nulls: Mapping[str, Any],
    p_uncond: Mapping[str, float],
    together: Mapping[str, bool],
) -> Condition:
    """The condition with nulls in it, drawn for each example.

    Entries that guidance hides together share one draw u, and each is hidden where u < p_uncond;
    the others are hidden independently of one another.

    Args:
      keys: One an example.
      cond: The condition.
      nulls: What stands for none, by entries' names; `KEPT` for what is never hidden.
      p_uncond: How often each entry is hidden.
      together: Whether it is hidden with the others that are.
    """
    u = jax.vmap(lambda key: jax.random.uniform(key, (1 + len(cond),)))(keys)
    found = {}
    for place, (name, entry) in enumerate(cond.items(), start=1):
        if nulls[name] is KEPT or not p_uncond[name]:
            found[name] = entry
            continue
        gone = u[:, 0 if together[name] else place] < p_uncond[name]
        none = condition.broadcast(nulls[name], entry)
        found[name] = condition.where(gone, none, entry)
    return found
