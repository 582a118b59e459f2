"""What a caption of a scene asks for: the inverse of the sentences that scenes are told in."""

import re
from typing import NamedTuple

from cfg_jax.data.scenes import ACROSS, COLOURS, CORNERS, DIGITS, DOWN

_OBJECT = rf"a ({'|'.join(COLOURS)}) ({'|'.join(DIGITS)})"

_SINGLE = re.compile(rf"{_OBJECT}(?: ({'|'.join(CORNERS)}))?")

_CHAIN = re.compile(rf"{_OBJECT} (left of|right of|above|below) {_OBJECT}(?: \3 {_OBJECT})?")

_LIST = re.compile(rf"{_OBJECT}, {_OBJECT} and {_OBJECT} from (left to right|top to bottom)")

_WAYS = {
    "left of": (ACROSS, False),
    "right of": (ACROSS, True),
    "above": (DOWN, False),
    "below": (DOWN, True),
    "left to right": (ACROSS, False),
    "top to bottom": (DOWN, False),
}
"""Along which way a relation goes, and whether it names the last digit first."""


class Wanted(NamedTuple):
    """What a caption asks for.

    Attributes:
      objects: The number of each digit and of its colour, in the order in which they shall stand:
        from left to right, or from top to bottom.
      way: `ACROSS` or `DOWN`; None for a single digit.
      corner: The half of the picture that a single digit shall stand in, from the top and from the
        left, 0 or 1 each; None where the caption does not say.
    """

    objects: tuple[tuple[int, int], ...]
    way: int | None = None
    corner: tuple[int, int] | None = None


def parsed(caption: str) -> Wanted | None:
    """What a caption of a scene asks for; None where it is another sentence.

    >>> from cfg_jax.data.scene_captions import parsed
    >>> parsed("a red three right of a blue seven")
    Wanted(objects=((7, 2), (3, 0)), way=0, corner=None)
    >>> parsed("a white one in the top right")
    Wanted(objects=((1, 5),), way=None, corner=(0, 1))
    >>> parsed("a photograph of a fox")
    """
    if match := _SINGLE.fullmatch(caption):
        colour, digit, corner = match.groups()
        return Wanted(_objects(colour, digit), corner=CORNERS[corner] if corner else None)
    if match := _CHAIN.fullmatch(caption):
        colour, digit, relation, *others = match.groups()
        way, backwards = _WAYS[relation]
        objects = _objects(colour, digit, *others)
        return Wanted(objects[::-1] if backwards else objects, way)
    if match := _LIST.fullmatch(caption):
        *words, relation = match.groups()
        return Wanted(_objects(*words), _WAYS[relation][0])
    return None


def _objects(*words: str | None) -> tuple[tuple[int, int], ...]:
    """The numbers of digits and colours named by words, colour and digit in turn."""
    colours, digits = words[::2], words[1::2]
    names = tuple(COLOURS)
    return tuple(
        (DIGITS.index(digit), names.index(colour))
        for colour, digit in zip(colours, digits, strict=True)
        if colour is not None and digit is not None
    )
