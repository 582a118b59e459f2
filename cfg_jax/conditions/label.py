"""Class labels."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cfg_jax import parts
from cfg_jax.diffusion import checks
from cfg_jax.parts import Conditioner, Facts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Label(Conditioner):
    """A class label, an integer in [0, num_classes); the null is num_classes itself.

    Attributes:
      p_uncond: How often training hides the label.
      guided: Whether guidance compares with the null label.
      num_classes: The number of classes, at most a million; the data's when None.
      has_null: Whether there is a null label. Networks that were trained without one have none, and
        cannot be guided by it.

    Raises:
      ValueError: A value is out of range, or p_uncond is not 0 without a null.

    >>> from cfg_jax.conditions import Label
    >>> label = Label(num_classes=10)
    >>> label.given([3, 10]).tolist(), label.null
    ([3, 10], 10)
    """

    p_uncond: float = 0.1
    num_classes: int | None = None
    has_null: bool = True
    class_names: tuple[str, ...] = dataclasses.field(default=(), repr=False, metadata=parts.BOUND)
    name: str = dataclasses.field(default="label", repr=False, metadata=parts.BOUND)

    flag_suffix = "s"
    help = "labels or class names and ranges, such as 0-9 or 1,3,5-7 or cat,dog; all if not given"

    def __post_init__(self):
        super().__post_init__()
        if self.num_classes is not None:
            checks.whole("num_classes", self.num_classes, 1, 1_000_000)
        checks.truth("has_null", self.has_null)
        if self.p_uncond and not self.has_null:
            raise ValueError(f"p_uncond must be 0 where has_null is False, got {self.p_uncond}")

    def bind(self, name: str, facts: Facts) -> "Label":
        """Takes the number of classes and their names from the data.

        Raises:
          ValueError: The data have no classes, or more of them than `num_classes`.
        """
        names = tuple(facts.class_names)
        count = self.num_classes or len(names)
        if not count:
            raise ValueError(f"{name} is a Label, and the data have no classes")
        if count < len(names):
            raise ValueError(
                f"{name}.num_classes must be at least {len(names)}, the data's number of classes; "
                f"got {count}"
            )
        return dataclasses.replace(self, num_classes=count, class_names=names, name=name)

    @property
    def inlet(self) -> parts.Classes:
        """One of the classes, the null among them."""
        return parts.Classes(self._count + self.has_null)

    @property
    def null(self) -> int | None:
        """The number of classes."""
        return self._count if self.has_null else None

    def read(self, params, batch, x):
        """The batch's labels."""
        return batch[self.name]

    def given(self, value: Any, params: Any = None) -> Any:
        """Labels or class names as int32 of (batch,).

        Raises:
          ValueError: One is no integer in range and no class's name.
        """
        if isinstance(value, jax.core.Tracer):
            return jnp.asarray(value, jnp.int32)
        entries = checks.array(self.name, value)
        if entries.dtype.kind in "US":
            entries = np.atleast_1d(entries)
            found = [self._number(str(name)) for name in entries.ravel()]
            entries = np.asarray(found, np.int32).reshape(entries.shape)
        last = self._count if self.has_null else self._count - 1
        allowed = f"[0, {self._count - 1}]" + (f", or be {last} for none" if self.has_null else "")
        if entries.ndim != 1 or not entries.size:
            raise ValueError(
                f"{self.name} must be (batch,) labels, one an example, got shape {entries.shape}"
            )
        if entries.dtype.kind not in "iu":
            raise ValueError(f"{self.name} must be integers in {allowed}; got {entries.dtype}")
        wrong = [int(n) for n in entries if not 0 <= int(n) <= last]
        if wrong:
            raise ValueError(f"{self.name} must lie in {allowed}; got {wrong[0]}")
        return jnp.asarray(entries.astype(np.int32))

    def parse(self, text: str) -> list[int]:
        """Labels, ranges of them with both ends, and class names: "0-9", "1,3,5-7", "cat,dog"."""
        found: list[int] = []
        for part in (part.strip() for part in text.split(",")):
            match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
            if part in self.class_names:
                found.append(self.class_names.index(part))
            elif match and int(match[1]) <= int(match[2] or match[1]) <= self._count:
                found.extend(range(int(match[1]), int(match[2] or match[1]) + 1))
            else:
                none = f" ({self._count} for none)" if self.has_null else ""
                raise ValueError(
                    f"--{self.name}s takes labels up to {self._count - 1}{none}, ranges such as "
                    f"0-9, or class names; got {part!r}"
                )
        self.given(found)
        return found

    def every(self) -> list[int]:
        """All labels."""
        return list(range(self._count))

    def found(self, arrays):
        """The array of the entry's name, or `arr_1`, as `sample` writes labels."""
        values = arrays.get(self.name, arrays.get("arr_1"))
        return None if values is None else np.asarray(self.given(values))

    def classes(self, value):
        """The labels themselves."""
        return np.asarray(self.given(value))

    def titles(self, value):
        """The classes' names."""
        names = dict(enumerate(self.class_names))
        return [names.get(int(n), str(int(n))) for n in self.classes(value)]

    def lend(self, examples, x):
        """The examples' labels."""
        return np.asarray([example[self.name] for example in examples], np.int32)

    @property
    def _count(self) -> int:
        if self.num_classes is None:
            raise ValueError(f"{self.name} has no num_classes yet: bind it to data, or give it")
        return self.num_classes

    def _number(self, name: str) -> int:
        if name not in self.class_names:
            known = ", ".join(self.class_names[:10]) or "none"
            raise ValueError(f"there is no class {name!r}; there are {known}")
        return self.class_names.index(name)
