"""Weighted prompts, "(a word:1.3)", by the conventions of the programs they were written for."""

import logging
import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cfg_jax.diffusion.checks import told
from cfg_jax.nn.fields import one_of
from cfg_jax.text.tokenizer import Tokenizer, Tokens

EMPHASIS = 1.1
"""What a pair of brackets without a number multiplies by."""

MOST = 1_000_000
"""Words that weigh more are a mistake."""

DEEPEST = 100
"""More brackets within brackets are a mistake."""

_LOG = logging.getLogger(__name__)

Part = tuple[str, float]
"""A piece of a prompt and its weight."""


class Weighted(NamedTuple):
    """Rows of tokens, and how much each counts.

    Attributes:
      tokens: The rows.
      weights: float32 (rows, length); 1 for beginning, end and padding.
      empty: As many rows of the empty text, from which "comfyui" measures.
    """

    tokens: Tokens
    weights: Float[np.ndarray, "rows length"]
    empty: Tokens


SIGNS = re.compile(
    r"""
      \\(?P<escaped>[()\[\]\\]?)
    | (?P<opened>[(\[])
    | :\s*(?P<number>[+-]?(?:\d+\.?\d*|\.\d+))\s*\)
    | (?P<closed>[)\]])
    | [^\\()\[\]:]+
    | :
    """,
    re.VERBOSE,
)
"""What A1111 tells apart: escapes, brackets, a number before a bracket, and text."""


def parse(prompt: str, convention: str) -> list[Part]:
    r"""The pieces of a prompt and their weights, in their order, equal ones put together.

    "a1111" and "a1111_no_norm": ( ) multiplies by 1.1 or by the number behind a colon, [ ] divides
    by 1.1, and nested brackets multiply; one that is never closed reaches to the end. \( is a
    bracket as text. The word BREAK has no meaning of its own here.

    "comfyui": ( ) multiplies by 1.1, and a number behind a colon replaces all weights around it;
    [ ] is text, as is a bracket that is never closed. \( is a bracket as text.

    Args:
      prompt: The prompt.
      convention: One of `CONVENTIONS`.

    Raises:
      ValueError: There is no such convention, the prompt is no text, its brackets are nested too
        deeply, or a weight is beyond a million.

    >>> from cfg_jax.text import weights
    >>> weights.parse("a (red:1.5) [fox]", "comfyui")
    [('a ', 1.0), ('red', 1.5), (' [fox]', 1.0)]
    """
    one_of("convention", convention, CONVENTIONS)
    if not isinstance(prompt, str):
        raise ValueError(f"prompt must be a text, got {told(prompt)}")
    merged: list[Part] = []
    for text, weight in CONVENTIONS[convention][0](prompt):
        if not abs(weight) <= MOST:
            raise ValueError(
                f"words must weigh from -{MOST:,} to {MOST:,}, got {weight:g} of {told(text)}"
            )
        if merged and merged[-1][1] == weight:
            text = merged.pop()[0] + text
        merged.append((text, weight))
    return merged or [("", 1.0)]


def weighted(
    prompt: str, tokenizer: Tokenizer, convention: str, *, at_least: int = 1
) -> tuple[Tokens, Float[np.ndarray, "rows length"]]:
    """The rows of a weighted prompt, and a weight for each token: 1 for beginning, end, padding.

    Each piece is tokenised by itself, as both programs do; rows are full before the next begins,
    and rows of no text make them `at_least` so many.

    Raises:
      ValueError: There is no such convention.
    """
    ids: list[int] = []
    weights: list[float] = []
    for text, weight in parse(prompt, convention):
        found = tokenizer.ids(text)
        ids += found
        weights += [weight] * len(found)
    tokens = tokenizer.chunked(ids, at_least=at_least)
    laid = np.ones(tokens.ids.shape, np.float32)
    start = 0 if tokenizer.bos is None else 1
    for row, first in enumerate(range(0, len(ids), tokenizer.room)):
        part = weights[first : first + tokenizer.room]
        laid[row, start : start + len(part)] = part
    return tokens, laid


def rows(
    prompts: Sequence[str], tokenizer: Tokenizer, convention: str, *, chunks: int = 1
) -> Weighted:
    """A row for each weighted prompt, of `chunks`; one that is too long is cut, with a warning.

    Raises:
      ValueError: There is no such convention, or a prompt is no text.
    """
    found = [weighted(prompt, tokenizer, convention, at_least=chunks) for prompt in prompts]
    long = sum(len(laid) > chunks for _, laid in found)
    if long:
        _LOG.warning(
            "%d of %d texts are longer than %d tokens, and cut",
            long,
            len(found),
            chunks * tokenizer.room,
        )
    ids, mask, laid = (
        np.stack([part[:chunks].ravel() for part in parts])
        for parts in zip(*((*tokens, laid) for tokens, laid in found), strict=True)
    )
    return Weighted(Tokens(ids, mask), laid, tokenizer([""] * len(found), chunks=chunks))


def weigh(
    embeddings: Float[Array, "rows length width"],
    weights: Float[Array | np.ndarray, "rows length"],
    convention: str,
    *,
    empty: Float[Array, "*rows length width"] | None = None,
) -> Float[Array, "rows length width"]:
    """The encoded prompt, weighted; one whose weights are all 1 stays as it is.

    "a1111": z w, times the mean of z over that of z w, each row by itself: what a prompt becomes
    does not depend on the others of its batch. "a1111_no_norm": z w alone, for SDXL, whose means
    are so near zero that their ratio explodes. "comfyui": (z - z_empty) w + z_empty.

    Pooled vectors are not weighted.

    Args:
      embeddings: z, what the encoder gave for the rows.
      weights: w, from `weighted`; negative ones too.
      convention: One of `CONVENTIONS`.
      empty: z of the empty text, which "comfyui" needs: one row, or one for each.

    Raises:
      ValueError: There is no such convention, or it needs `empty`.
    """
    one_of("convention", convention, CONVENTIONS)
    z, w = jnp.asarray(embeddings, jnp.float32), jnp.asarray(weights, jnp.float32)
    if z.ndim != 3 or w.shape != z.shape[:2]:
        raise ValueError(f"weights must be one a vector of {z.shape}, got {w.shape}")
    w = w[..., None]
    return CONVENTIONS[convention][1](z, w, empty)


def _a1111(prompt: str) -> list[Part]:
    parts: list[list] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}
    factors = {"(": EMPHASIS, "[": 1 / EMPHASIS}

    def close(bracket: str, factor: float) -> None:
        for part in parts[opened[bracket].pop() :]:
            part[1] *= factor

    for match in SIGNS.finditer(prompt):
        opener = {")": "(", "]": "["}.get(match["closed"] or "", "(")
        if match["opened"]:
            opened[match["opened"]].append(len(parts))
        elif (match["number"] or match["closed"]) and opened[opener]:
            close(opener, float(match["number"]) if match["number"] else factors[opener])
        else:
            text = match[0] if match["escaped"] is None else match["escaped"]
            parts.append([text, 1.0])
    for bracket, places in opened.items():
        while places:
            close(bracket, factors[bracket])
    return [(text, weight) for text, weight in parts]


OPEN, CLOSED = "\ufdd0", "\ufdd1"
"""Escaped brackets while a prompt is parsed: characters that stand in no text."""


def _comfyui(prompt: str) -> list[Part]:
    shielded = prompt.replace(r"\(", OPEN).replace(r"\)", CLOSED)
    return [
        (text.replace(OPEN, "(").replace(CLOSED, ")"), weight)
        for text, weight in _nested(shielded, 1.0, 0)
    ]


def _nested(prompt: str, weight: float, depth: int) -> list[Part]:
    """The pieces of what stands within brackets of this weight."""
    if depth > DEEPEST:
        raise ValueError(f"a prompt may have {DEEPEST} brackets within brackets, and has more")
    parts: list[Part] = []
    for piece in _outermost(prompt):
        if len(piece) < 2 or piece[0] != "(" or piece[-1] != ")":
            parts.append((piece, weight))
            continue
        text, colon, number = piece[1:-1].rpartition(":")
        inner = _finite(number) if colon and text else None
        if inner is None:
            parts += _nested(piece[1:-1], EMPHASIS * weight, depth + 1)
        else:
            parts += _nested(text, inner, depth + 1)
    return parts


def _outermost(prompt: str) -> list[str]:
    """A prompt cut before and behind its outermost brackets."""
    cuts, depth = [0], 0
    for place, sign in enumerate(prompt):
        if sign == "(":
            if depth == 0:
                cuts.append(place)
            depth += 1
        elif sign == ")":
            depth -= 1
            if depth == 0:
                cuts.append(place + 1)
    ends = [*cuts[1:], len(prompt)]
    return [prompt[start:end] for start, end in zip(cuts, ends, strict=True) if end > start]


def _finite(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _scaled(z: Array, w: Array, empty: Array | None) -> Array:
    return z * w


def _restored(z: Array, w: Array, empty: Array | None) -> Array:
    scaled = z * w
    before, after = (x.mean((1, 2), keepdims=True) for x in (z, scaled))
    zero = after == 0.0
    restored = scaled * jnp.where(zero, 1.0, before / jnp.where(zero, 1.0, after))
    # Without this, the means of a row that nothing weighs might differ by how they are compiled.
    return jnp.where((w == 1.0).all((1, 2), keepdims=True), z, restored)


def _from_empty(z: Array, w: Array, empty: Array | None) -> Array:
    if empty is None:
        raise ValueError("comfyui weighs the distance from the empty text: empty must be given")
    return jnp.where(w == 1.0, z, (z - empty) * w + empty)


CONVENTIONS: dict[str, tuple[Callable[[str], list[Part]], Callable[..., Array]]] = {
    "a1111": (_a1111, _restored),
    "a1111_no_norm": (_a1111, _scaled),
    "comfyui": (_comfyui, _from_empty),
}
"""How each convention reads a prompt, and weighs what is encoded."""
