"""Colour pictures composed of real handwritten digits, and sentences that say what is where."""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from cfg_jax.data import fields
from cfg_jax.data.dataset import ArraySource, Dataset, Kind, load
from cfg_jax.data.digits import Digits

SIDE = 32
"""Height and width of a scene."""

DIGIT_SIDE = 8
"""Height and width of a digit in it; each fills one cell of a grid of four by four."""

CELLS = SIDE // DIGIT_SIDE
"""Cells of a row and of a column."""

MOST = 3
"""Digits of a scene, at most."""

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

COLOURS = {
    "red": (235, 50, 50),
    "green": (50, 200, 70),
    "blue": (70, 110, 255),
    "yellow": (240, 220, 50),
    "purple": (190, 70, 220),
    "white": (255, 255, 255),
}

_NAMES = tuple(COLOURS)

CORNERS = {
    "in the top left": (0, 0),
    "in the top right": (0, 1),
    "in the bottom left": (1, 0),
    "in the bottom right": (1, 1),
}
"""Where a single digit may be said to stand: its half from the top, and from the left."""

ACROSS, DOWN = 0, 1
"""Ways in which several digits stand in a row: from left to right, from top to bottom."""


class Drawn(NamedTuple):
    """What a scene consists of.

    Attributes:
      digits: Each digit, in the order in which they stand.
      colours: The number of each one's colour, in the order of `COLOURS`.
      corners: Rows and columns of their upper left corners, (count, 2).
      way: `ACROSS` or `DOWN`.
    """

    digits: tuple[int, ...]
    colours: tuple[int, ...]
    corners: Int[np.ndarray, "count 2"]
    way: int

    @property
    def pairs(self) -> set[tuple[int, int]]:
        """The pairs of colour and digit in it."""
        return set(zip(self.colours, self.digits, strict=True))

    @property
    def neighbours(self) -> set[tuple[int, int, int]]:
        """The relations in it: a digit, a way, and the digit that comes next that way."""
        return {(a, self.way, b) for a, b in zip(self.digits, self.digits[1:], strict=False)}

    @property
    def captions(self) -> tuple[str, ...]:
        """The sentences that say what is seen."""
        said = [
            f"a {_NAMES[colour]} {DIGITS[digit]}"
            for colour, digit in zip(self.colours, self.digits, strict=True)
        ]
        if len(said) == 1:
            halves = tuple(int(at > (SIDE - DIGIT_SIDE) / 2) for at in self.corners[0])
            (corner,) = (text for text, place in CORNERS.items() if place == halves)
            return said[0], f"{said[0]} {corner}"
        first, then = (("left of", "right of"), ("above", "below"))[self.way]
        if len(said) == 2:
            return f"{said[0]} {first} {said[1]}", f"{said[1]} {then} {said[0]}"
        row = ("from left to right", "from top to bottom")[self.way]
        return (
            f"{said[0]} {first} {said[1]} {first} {said[2]}",
            f"{said[0]}, {said[1]} and {said[2]} {row}",
        )


def _held_pairs() -> frozenset[tuple[int, int]]:
    """A tenth of all pairs of colour and digit: each colour lacks one, no digit more than one."""
    digits = np.random.default_rng(0).permutation(len(DIGITS))
    return frozenset((colour, int(digits[colour])) for colour in range(len(_NAMES)))


HELD_PAIRS = _held_pairs()
"""Pairs of colour and digit that no training scene has."""

HELD_NEIGHBOURS = frozenset(
    (a, way, b)
    for a in range(10)
    for b in range(10)
    for way in (ACROSS, DOWN)
    if (a + 3 * b + 5 * way) % 10 == 0
)
"""A tenth of all relations, which no training scene has."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scenes(Kind):
    """Scenes of one to three of scikit-learn's digits in six colours, 32×32, with captions.

    Each digit fills a cell of a grid of 4×4; several stand beside each other or below each other. A
    tenth of the pairs of colour and digit, and of the relations between two digits, are in no
    training scene; half of the test scenes have one. Training scenes are made of training digits
    alone, test scenes of held-out ones. An example has "text", two captions of which training takes
    one; "objects", int32 (3, 4): digit, colour, and row and column of the upper left corner, -1
    where there are fewer digits; and "novel", 1 where something in it was never trained on. All are
    kept in memory.

    Attributes:
      scenes: training scenes, at most a million; there are a tenth as many for testing.
      dir: where prepared datasets are kept, "" for TFDS's default (`TFDS_DATA_DIR`).
    """

    scenes: int = 20_000
    dir: str = ""

    def __post_init__(self):
        super().__post_init__()
        fields.whole("scenes", self.scenes, 10, 1_000_000)
        fields.path("dir", self.dir)

    def open(self, split: str) -> Dataset:
        """As `Kind.open`, in memory."""
        digits = load(Digits(dir=self.dir).open(split).source, skip_bad=False).arrays
        count = self.scenes if split == "train" else self.scenes // 10
        rng = np.random.default_rng(("train", "test").index(split))
        drawn = [_draw(rng, novel=split == "test" and number % 2 == 1) for number in range(count)]
        stencils = digits["x"][..., 0]
        of_digit = [np.flatnonzero(digits["label"] == digit) for digit in range(len(DIGITS))]
        text = np.empty(count, object)
        text[:] = [scene.captions for scene in drawn]
        source = ArraySource(
            {
                "x": np.stack([_picture(scene, stencils, of_digit, rng) for scene in drawn]),
                "text": text,
                "objects": np.stack([_objects(scene) for scene in drawn]),
                "novel": np.array([_is_novel(scene) for scene in drawn], np.int32),
            }
        )
        return Dataset(
            source=source,
            shape=(SIDE, SIDE, 3),
            class_names=(),
            name="scenes",
            split=split,
            arrays=source.specs,
            texts=source.texts,
            workers=self.workers,
        )


def _draw(rng: np.random.Generator, *, novel: bool) -> Drawn:
    """A scene with something that is never trained on, or without."""
    count, way = int(rng.integers(1, MOST + 1)), int(rng.integers(2))
    while True:
        digits = tuple(map(int, rng.integers(len(DIGITS), size=count)))
        colours = tuple(map(int, rng.integers(len(_NAMES), size=count)))
        scene = Drawn(digits, colours, _corners(rng, count, way), way)
        if _is_novel(scene) == novel:
            return scene


def _is_novel(scene: Drawn) -> bool:
    return bool(scene.pairs & HELD_PAIRS or scene.neighbours & HELD_NEIGHBOURS)


def _corners(rng: np.random.Generator, count: int, way: int) -> Int[np.ndarray, "count 2"]:
    """Upper left corners: one digit anywhere, each next one further along the way than across."""
    while True:
        along = np.sort(rng.choice(CELLS, count, replace=False))
        across = rng.integers(CELLS, size=count)
        if np.all(np.diff(along) > np.abs(np.diff(across))):
            pair = (across, along) if way == ACROSS else (along, across)
            return DIGIT_SIDE * np.stack(pair, axis=1)


def _picture(
    scene: Drawn,
    stencils: UInt8[np.ndarray, "n side side"],
    of_digit: list[np.ndarray],
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "32 32 3"]:
    """The scene's digits, each written by someone, on black."""
    x = np.zeros((SIDE, SIDE, 3), np.float32)
    levels = np.array(list(COLOURS.values()), np.float32)
    for digit, colour, (row, column) in zip(
        scene.digits, scene.colours, scene.corners, strict=True
    ):
        ink = stencils[rng.choice(of_digit[digit])][..., None] / np.float32(255.0)
        x[row : row + DIGIT_SIDE, column : column + DIGIT_SIDE] += ink * levels[colour]
    return np.rint(np.clip(x, 0.0, 255.0)).astype(np.uint8)


def _objects(scene: Drawn) -> Int[np.ndarray, "3 4"]:
    found = np.full((MOST, 4), -1, np.int32)
    found[: len(scene.digits), 0] = scene.digits
    found[: len(scene.digits), 1] = scene.colours
    found[: len(scene.digits), 2:] = scene.corners
    return found
