"""The slots of a recipe: which kinds each may hold, and what makes an object fit.

A slot is known by the name of the field that holds its node, `config.sample.solver`; the entries of
`config.condition` and `config.averages` have any names. Each slot's registry stands in its own
room. A kind that is in none is named by its import path, "module:Name". It is checked *before* it
is called: a class by its base or methods, a function by the type that it says it returns.
"""

import dataclasses
import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from cfg_jax.diffusion import checks
from cfg_jax.recipe import signature, values
from cfg_jax.recipe.signature import MISSING, Field, is_nnx, makes, told

FACTS = ("inlets", "num_classes", "schedule", "train_steps", "shape", "class_names")
"""Fields that a recipe leaves open, as None, to be filled in once data and schedule are known."""


_CALLED = ("__call__",)


@dataclasses.dataclass(frozen=True)
class Function:
    """A function in the place of an object, with some of its parameters given.

    Attributes:
      function: The function.
      given: Its parameters' values by name.
    """

    function: Callable[..., Any]
    given: tuple[tuple[str, Any], ...] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function's result."""
        return self.function(*args, **(dict(self.given) | kwargs))


@dataclasses.dataclass(frozen=True)
class Slot:
    """A place in a recipe for one kind of thing.

    Attributes:
      name: Its name.
      what: What it holds, "a solver".
      room: Where its registry stands, "module:NAME".
      base: "module:Name" of the class that its objects are of; "" where methods tell.
      methods: Methods that its objects have.
      attributes: What they have beside these.
      takes: What they are called with by name.
      foreign: Tells classes of another kind that fit behind an adapter, "module:NAME" of which is
        `adapter`: `(kind, **fields) -> object`.
      adapter: See `foreign`.
      may_change: Fields that a run may change when it goes on.
    """

    name: str
    what: str
    room: str
    base: str = ""
    methods: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    foreign: Callable[[Any], bool] = lambda kind: False
    adapter: str = ""
    may_change: frozenset[str] = frozenset()

    @property
    def kinds(self) -> Mapping[str, Any]:
        """The registry: kinds by their names."""
        return loaded(self.room)

    def accepts(self, made: type) -> bool:
        """Whether objects of a class fit."""
        if self.base and issubclass(made, loaded(self.base)):
            return True
        has = {name for base in made.__mro__ for name in vars(base)}
        return self.foreign(made) or (bool(self.methods) and has.issuperset(self.methods))

    @property
    def is_called(self) -> bool:
        """Whether its objects are called, so that a function may stand for one."""
        return self.methods == _CALLED

    def find(self, name: str, path: str) -> Any:
        """The kind of a name or an import path.

        Args:
          name: A name of the registry, whatever its case, "_" and "-"; or "module:Name".
          path: The field, for messages.

        Raises:
          ValueError: There is none, it cannot be imported, or it makes what does not fit.
        """
        if ":" in name:
            kind = imported(name, path)
        else:
            kind = lookup(self.kinds, name)
            if kind is None:
                raise ValueError(
                    f"{path} must be {self._choice()}; got {told(name)}{near(name, self.kinds)}"
                )
        return self.checked(kind, name, path)

    def checked(self, kind: Any, name: str, path: str) -> Any:
        """The kind.

        Raises:
          ValueError: It makes what does not fit.
        """
        if callable(kind):
            try:
                signature.fields(kind)
            except (ValueError, TypeError) as error:  # it cannot be hashed
                raise ValueError(f"{path}: {name}: {error}") from None
        if self.is_function(kind):
            try:
                inspect.signature(kind).bind_partial(**dict.fromkeys(self.takes))
            except TypeError as error:
                raise ValueError(f"{path}: {name} is not {self.what}: it {error}") from None
            return kind
        made = makes(kind) if callable(kind) else type(kind)
        if self.base and kind is loaded(self.base):
            raise ValueError(f"{path}: {name} is what {self.what} is derived from, and makes none")
        if made is None:
            raise ValueError(
                f"{path}: {name} does not say what it makes: annotate its return type, {self.what}"
            )
        if not callable(kind) or not self.accepts(made):
            verb = "makes" if callable(kind) else "is"
            raise ValueError(f"{path}: {name} {verb} {article(made.__name__)}, not {self.what}")
        return kind

    def is_function(self, kind: Any) -> bool:
        """Whether a kind is itself the object: a function, in a slot of what is called."""
        return self.is_called and callable(kind) and not isinstance(kind, type)

    def make(self, kind: Any, given: dict[str, Any]) -> Any:
        """What a kind makes of its fields; errors are the kind's own."""
        if self.is_function(kind):
            return Function(kind, tuple(given.items()))
        return loaded(self.adapter)(kind, **given) if self.foreign(kind) else kind(**given)

    def fits(self, made: Any) -> bool:
        """Whether an object is what the slot holds."""
        has_all = all(hasattr(made, name) for name in self.attributes)
        return has_all and self.accepts(type(made))

    def _choice(self) -> str:
        names = ", ".join(self.kinds)
        return f"{self.what}: one of {names}, or an import path module:Name"


def article(name: str) -> str:
    """A name with its article."""
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


SLOTS: dict[str, Slot] = {
    slot.name: slot
    for slot in (
        Slot(
            "data",
            "a source of data",
            "cfg_jax.data:SOURCES",
            methods=("open", "peek"),
            may_change=frozenset({"dir", "workers", "skip_bad"}),
        ),
        Slot(
            "network",
            "a network",
            "cfg_jax.networks:NETWORKS",
            base="flax.linen:Module",
            foreign=is_nnx,
            adapter="cfg_jax.networks.nnx:from_nnx",
            may_change=frozenset({"remat"}),
        ),
        Slot(
            "codec",
            "a codec",
            "cfg_jax.codecs:CODECS",
            methods=("encode", "decode"),
            attributes=("bound",),
        ),
        Slot(
            "discriminator",
            "a discriminator",
            "cfg_jax.networks:DISCRIMINATORS",
            base="flax.linen:Module",
        ),
        Slot(
            "perceptual",
            "a distance between pictures",
            "cfg_jax.objectives:DISTANCES",
            methods=_CALLED,
        ),
        Slot(
            "conditioner",
            "a conditioner",
            "cfg_jax.conditions:CONDITIONERS",
            base="cfg_jax.parts:Conditioner",
            may_change=frozenset({"logsnr"}),
        ),
        Slot(
            "encoder",
            "an encoder of tokens",
            "cfg_jax.text:ENCODERS",
            base="flax.linen:Module",
            attributes=("width",),
        ),
        Slot(
            "schedule",
            "a schedule",
            "cfg_jax.diffusion.schedules:SCHEDULES",
            base="cfg_jax.diffusion.schedules:Schedule",
        ),
        Slot(
            "objective", "an objective", "cfg_jax.objectives:OBJECTIVES", methods=("draw", "losses")
        ),
        Slot("weight", "a weighting", "cfg_jax.objectives:WEIGHTINGS", methods=_CALLED),
        Slot(
            "optimiser",
            "an optax transformation",
            "cfg_jax.optim:OPTIMISERS",
            base="optax:GradientTransformation",
        ),
        Slot("average", "an average", "cfg_jax.optim:AVERAGES", methods=("share",)),
        Slot(
            "guidance",
            "a guidance method",
            "cfg_jax.guidance.methods:METHODS",
            methods=_CALLED,
            takes=("w", "null", "condition", "weak"),
        ),
        Slot(
            "solver",
            "a solver",
            "cfg_jax.sampling.solvers:SOLVERS",
            methods=("init", "step", "calls"),
        ),
        Slot("grid", "a grid", "cfg_jax.sampling.grids:GRIDS", methods=_CALLED),
        Slot("clip", "a clip", "cfg_jax.sampling.clips:CLIPS", methods=_CALLED),
        Slot(
            "level_features",
            "noise-level features",
            "cfg_jax.nn:LEVEL_FEATURES",
            methods=_CALLED,
        ),
    )
}
"""The slots by name; but for those of `CHILDREN`, the name is that of the field, too."""

CHILDREN = {"condition": "conditioner", "averages": "average"}
"""Groups whose entries, of any names, are nodes of one slot."""


def fields(kind: Any) -> dict[str, Field]:
    """The fields of a kind; of a function that is itself the object, those with a default.

    A function makes an object where the type that it returns fits a slot.
    """
    known = signature.fields(kind)
    made = makes(kind)
    is_maker = isinstance(kind, type) or any(
        made is not None and not slot.is_called and slot.accepts(made) for slot in SLOTS.values()
    )
    return known if is_maker else {n: f for n, f in known.items() if f.default is not MISSING}


def slot_of(field: Field) -> Slot | None:
    """The slot of a kind's own field, by its name or the kind of its default; None for values."""
    if field.name in SLOTS and not values.is_plain(field.hint):
        is_open = field.default is MISSING or field.default is None
        if is_open or signature.plain(field.default) is MISSING:
            return SLOTS[field.name]
    if dataclasses.is_dataclass(field.default) and not isinstance(field.default, type):
        return next((s for s in SLOTS.values() if type(field.default) in s.kinds.values()), None)
    return None


def registered(kind: Any) -> list[tuple[Slot, str]]:
    """The slots that hold a kind in their registries, and its name there."""
    found = []
    for slot in SLOTS.values():
        found += [(slot, name) for name, held in slot.kinds.items() if held is kind]
    return found


def lookup(kinds: Mapping[str, Any], name: str) -> Any:
    """The kind of a name, whatever its case, "_" and "-"; None where there is none."""
    return {_simple(known): kind for known, kind in kinds.items()}.get(_simple(name))


def near(name: str, known: Any) -> str:
    """A question after what was meant, for the end of a message; nothing where nothing is near."""
    simple = {_simple(k): k for k in known}
    close = difflib.get_close_matches(_simple(name), simple, n=1)
    return f"; did you mean {simple[close[0]]}?" if close else ""


def _simple(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def loaded(path: str) -> Any:
    """What "module:NAME" of this package, or of one that it needs, names."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def imported(name: str, path: str) -> Any:
    """What the import path "module:Name" names.

    Args:
      name: The import path.
      path: The field, for messages.

    Raises:
      ValueError: It is no import path, or there is no such thing.
    """
    module, _, inner = name.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), *inner.split("."))):
        raise ValueError(f"{path} must be an import path module:Name, got {told(name)}")
    try:
        found = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever a module of the user's raises
        raise ValueError(
            f"{path}: {checks.line(module)} cannot be imported: {type(error).__name__}: "
            f"{checks.line(str(error))}"
        ) from error
    for part in inner.split("."):
        if not hasattr(found, part):
            raise ValueError(
                f"{path}: {checks.line(module)} has no {checks.line(inner)}{near(part, dir(found))}"
            )
        found = getattr(found, part)
    return found
