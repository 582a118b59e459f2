"""When a scene shows what its caption asks for: cases made by hand, right and wrong."""

import numpy as np
import pytest

from cfg_jax.data import scenes
from cfg_jax.data.scene_captions import parsed
from cfg_jax.evaluation.caption_match import agrees, shows

RED, GREEN, BLUE = 0, 1, 2
ROW = "a red three, a blue seven and a green one from left to right"
PAIR = "a blue seven below a red three"
CORNER = "a red three in the top right"

LEFT, MIDDLE, RIGHT = (3, RED, 10, 0), (7, BLUE, 12, 11), (1, GREEN, 8, 22)


@pytest.mark.parametrize(
    ("caption", "found"),
    [
        (ROW, [LEFT, MIDDLE, RIGHT]),
        (ROW, [RIGHT, LEFT, MIDDLE]),
        (PAIR, [(3, RED, 2, 10), (7, BLUE, 18, 12)]),
        (CORNER, [(3, RED, 4, 18)]),
        (CORNER, [(3, RED, 8, 16)]),
        ("a red three", [(3, RED, 21, 2)]),
    ],
)
def test_what_is_asked_for_agrees(caption, found):
    assert agrees(np.array(found), parsed(caption))


@pytest.mark.parametrize(
    ("caption", "found"),
    [
        (ROW, [(7, BLUE, 10, 0), (3, RED, 12, 11), RIGHT]),
        (ROW, [LEFT, MIDDLE]),
        (ROW, [LEFT, MIDDLE, (1, RED, 8, 22)]),
        (ROW, [LEFT, MIDDLE, (4, GREEN, 8, 22)]),
        (ROW, [(3, RED, 0, 10), (7, BLUE, 11, 12), (1, GREEN, 22, 11)]),
        (PAIR, [(7, BLUE, 2, 10), (3, RED, 18, 12)]),
        (PAIR, [(3, RED, 2, 2), (7, BLUE, 4, 20)]),
        (PAIR, [(3, BLUE, 2, 10), (7, RED, 18, 12)]),
        (PAIR, [(3, RED, 2, 10), (7, BLUE, 18, 12), (7, BLUE, 18, 22)]),
        (CORNER, [(3, RED, 4, 2)]),
        (CORNER, [(3, RED, 20, 18)]),
        (CORNER, [(3, RED, 16, 24)]),
        (CORNER, [(3, RED, 0, 8)]),
        ("a red three", [(3, RED, 4, 4), (3, RED, 20, 20)]),
        ("a red three", np.empty((0, 4))),
    ],
)
def test_anything_else_does_not(caption, found):
    assert not agrees(np.array(found), parsed(caption))


def test_scenes_agree_with_what_was_said_of_them_and_show_what_they_consist_of():
    """But not with those of another scene."""
    rng = np.random.default_rng(0)
    drawn = [scenes._draw(rng, novel=bool(number % 2)) for number in range(400)]
    for scene, other in zip(drawn, [*drawn[1:], drawn[0]], strict=True):
        objects, others = scenes._objects(scene), scenes._objects(other)
        there = objects[: len(scene.digits)]
        assert all(agrees(there, parsed(caption)) for caption in scene.captions)
        assert not agrees(there, parsed(other.captions[0]))
        assert shows(there[::-1], objects)
        assert not shows(there, others)


@pytest.mark.parametrize(
    "found",
    [
        [(3, RED, 10, 8), MIDDLE],
        [(3, BLUE, 10, 0), MIDDLE],
        [(8, RED, 10, 0), MIDDLE],
        [LEFT],
        [LEFT, MIDDLE, RIGHT],
        [LEFT, LEFT],
        np.empty((0, 4)),
    ],
)
def test_a_scene_shows_nothing_else(found):
    objects = np.array([LEFT, MIDDLE, (-1, -1, -1, -1)])
    assert shows(np.array([MIDDLE, LEFT]), objects)
    assert not shows(np.array(found), objects)
