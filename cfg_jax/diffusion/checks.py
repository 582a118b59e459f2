"""Checks of the values that users type; values traced by JAX pass unexamined.

`number`, `whole` and `truth` are for what is static, one plain value; `finite` and `within` are for
numbers that may be arrays or traced.
"""

import math
import operator
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

LARGEST_LOGSNR = 80.0
"""Beyond it e^λ or e^-λ leaves float32."""

MOST_STEPS = 1_000_000
"""Of a walk over the noise levels."""


def finite(name: str, value: Any) -> None:
    """Raises ValueError where `value`, unless it is traced, holds no number, a NaN or an infinity.

    So does a number that the floats of JAX, float32 as a rule, cannot hold.

    >>> finite("w", 0.5)
    >>> finite("w", "x")
    Traceback (most recent call last):
    ValueError: w must be a number or an array of numbers, got 'x'
    """
    entries = numbers(name, value)
    if entries is not None:
        held = jnp.promote_types(jnp.result_type(entries), jnp.float32)
        _refuse(entries[~np.isfinite(entries)], f"{name} must be finite")
        with np.errstate(over="ignore"):
            _refuse(entries[~np.isfinite(entries.astype(held))], f"{name} must be finite in {held}")


def within(name: str, value: Any, low: float, high: float) -> None:
    """Raises ValueError where an entry of `value`, unless it is traced, is outside [low, high]."""
    entries = numbers(name, value)
    if entries is not None:
        inside = (entries >= low) & (entries <= high)
        _refuse(entries[~inside], f"{name} must lie in [{low:g}, {high:g}]")


def ordered(low_name: str, low: Any, high_name: str, high: Any) -> None:
    """Raises ValueError where a number is above the other one; traced ones are not compared."""
    lows, highs = numbers(low_name, low), numbers(high_name, high)
    if lows is not None and highs is not None and np.any(lows > highs):
        raise ValueError(f"{low_name} must be at most {high_name}, {high}; got {low}")


def number(
    name: str, value: Any, low: float = -math.inf, high: float = math.inf, ends: str = "[]"
) -> None:
    """Raises ValueError unless `value` is one plain, finite number between `low` and `high`.

    Args:
      name: What it is called.
      value: The value.
      low: The least.
      high: The greatest.
      ends: "[" and "]" where the ends themselves are allowed, "(" and ")" where they are not.

    >>> number("decay", 0.5, 0.0, 1.0, "[)")
    >>> number("decay", 1.0, 0.0, 1.0, "[)")
    Traceback (most recent call last):
    ValueError: decay must lie in [0, 1), got 1.0
    """
    inside = isinstance(value, Real) and not isinstance(value, bool) and _is_finite(value)
    if inside:
        above = low < value or (low == value and ends[0] == "[")
        inside = above and (value < high or (value == high and ends[1] == "]"))
    if not inside:
        raise ValueError(f"{name} must {_range(low, high, ends)}, got {told(value)}")


def whole(name: str, value: Any, low: int, high: int | None = None) -> int:
    """A whole number from `low` to `high`, of any integer type, as an int.

    Raises:
      ValueError: It is none, or it is traced.
    """
    if isinstance(value, jax.core.Tracer):
        raise ValueError(f"{name} decides what is compiled: it must be a plain number, not traced")
    try:
        number = operator.index(value)
    except TypeError:
        number = low - 1
    if number < low or (high is not None and number > high) or isinstance(value, bool):
        allowed = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} must be a whole number {allowed}, got {told(value)}")
    return number


def truth(name: str, value: Any) -> None:
    """Raises ValueError unless `value` is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} must be True or False, got {told(value)}")


def steps(value: Any) -> int:
    """A number of steps as an int; raises ValueError unless it is whole, from 1 to a million."""
    count = whole("steps", value, 1)
    if count > MOST_STEPS:
        raise ValueError(f"steps must be at most {MOST_STEPS}, got {count}")
    return count


def logsnr(name: str, value: Any) -> None:
    """Raises ValueError unless `value` is a plain number that λ may be."""
    number(name, value, -LARGEST_LOGSNR, LARGEST_LOGSNR)


def logsnr_range(logsnr_min: float, logsnr_max: float) -> None:
    """Raises ValueError unless logsnr_min < logsnr_max, and λ may be either."""
    logsnr("logsnr_min", logsnr_min)
    logsnr("logsnr_max", logsnr_max)
    if not logsnr_min < logsnr_max:
        raise ValueError(
            "logsnr_min must be smaller than logsnr_max, "
            f"got logsnr_min={logsnr_min} and logsnr_max={logsnr_max}"
        )


def numbers(name: str, value: Any) -> np.ndarray | None:
    """The entries of a number or an array of real numbers; None where one is traced.

    Raises:
      ValueError: It holds something else.
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value)):
        return None
    what = "a number or an array of numbers"
    entries = array(name, value, what)
    if not (jnp.issubdtype(entries.dtype, jnp.floating) or entries.dtype.kind in "iu"):
        raise ValueError(f"{name} must be {what}, got {told(value)}")
    return entries


def batch(name: str, value: Any) -> jax.Array:
    """Numbers of (batch, ...), traced or not, as an array.

    Raises:
      ValueError: They are none, or have no axis.
    """
    try:
        found = jnp.asarray(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name} must be an array of numbers, got {told(value)}") from None
    real = any(jnp.issubdtype(found.dtype, kind) for kind in (jnp.floating, jnp.integer))
    if not found.ndim or not real:
        raise ValueError(
            f"{name} must be an array of numbers, (batch, ...), got {found.dtype} of {found.shape}"
        )
    return found


def no_bytes(name: str, value: Any) -> None:
    """Refuses bytes where data in [-1, 1] belong.

    Raises:
      ValueError: They are.
    """
    if getattr(value, "dtype", None) == np.uint8:
        raise ValueError(f"{name} must lie in [-1, 1], got bytes: {name} / 127.5 - 1 makes it so")


def function(what: str, value: Any, form: str = "(z, logsnr, cond) -> eps") -> Any:
    """A function of a form, if it can be called at all.

    Raises:
      TypeError: It cannot.
    """
    if isinstance(value, type) or not callable(value):
        raise TypeError(f"{what} must be a callable {form}, got {told(value)}")
    return value


def array(name: str, value: Any, what: str = "an array") -> np.ndarray:
    """A value as a NumPy array.

    Raises:
      ValueError: It makes none, as a ragged list does not.
    """
    try:
        return np.asarray(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be {what}, got {told(value)}") from None


def random_key(key: Any) -> jax.Array:
    """A JAX random key, of either kind.

    Raises:
      TypeError: It is something else, such as a seed.
    """
    if isinstance(key, jax.Array) and (
        (jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ())
        or (key.dtype == jnp.uint32 and key.ndim == 1)
    ):
        return key
    raise TypeError(f"key must be a JAX random key, such as jax.random.key(0), got {told(key)}")


def told(value: Any) -> str:
    """A value in a message: one line, cut where it is long."""
    return line((str if isinstance(value, np.generic) else repr)(value))


def line(text: str) -> str:
    """A text in a message: one line, cut where it is long."""
    text = " ".join(text.split())
    return text if len(text) <= 100 else f"{text[:97]}..."


def _is_finite(value: Real) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that float64 cannot hold
        return False


def _refuse(wrong: np.ndarray, message: str) -> None:
    """Raises ValueError where there are wrong entries; it names the first of them."""
    if wrong.size:
        raise ValueError(f"{message}, got {wrong[0]}")


def _range(low: float, high: float, ends: str) -> str:
    """What a range allows, such as "lie in [0, 1)" or "be a finite number of at least 0"."""
    if math.isfinite(high):
        return f"lie in {ends[0]}{low:g}, {high:g}{ends[1]}"
    if math.isinf(low):
        return "be a finite number"
    if ends[0] == "[":
        return f"be a finite number of at least {low:g}"
    return "be a positive number" if low == 0.0 else f"be a finite number above {low:g}"


def finite_samples(x: jax.Array) -> None:
    """Raises ValueError where samples that can be looked at hold a NaN or an infinity."""
    known = not isinstance(x, jax.core.Tracer) and x.is_fully_addressable
    if known and not bool(jnp.isfinite(x).all()):
        raise ValueError("samples are not finite: w may be too large, or parameters damaged")
