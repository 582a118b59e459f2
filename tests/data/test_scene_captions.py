"""Captions of scenes read back: each says what its scene consists of; other sentences, nothing."""

import numpy as np
import pytest

from cfg_jax.data import scenes
from cfg_jax.data.scene_captions import Wanted, parsed


def drawn():
    """Some thousands of scenes, every other one of the held-out pairs."""
    for seed in range(1500):
        for novel in (False, True):
            yield scenes._draw(np.random.default_rng(seed), novel=novel)


def test_every_caption_says_what_its_scene_consists_of():
    forms = set()
    for scene in drawn():
        objects = tuple(zip(scene.digits, scene.colours, strict=True))
        for form, caption in enumerate(scene.captions):
            found = parsed(caption)
            assert found is not None, caption
            assert found.objects == objects
            assert found.way == (None if len(objects) == 1 else scene.way)
            if found.corner is not None:
                assert found.corner == tuple(int(at > 11) for at in scene.corners[0])
            forms.add((len(objects), found.way, found.corner, form))
    singles = {(1, None, None, 0), *((1, None, (a, b), 1) for a in (0, 1) for b in (0, 1))}
    several = {(count, way, None, form) for count in (2, 3) for way in (0, 1) for form in (0, 1)}
    assert forms == singles | several


@pytest.mark.parametrize(
    ("caption", "want"),
    [
        ("a blue nine in the bottom left", Wanted(((9, 2),), None, (1, 0))),
        ("a red zero left of a white one", Wanted(((0, 0), (1, 5)), scenes.ACROSS)),
        ("a red zero right of a white one", Wanted(((1, 5), (0, 0)), scenes.ACROSS)),
        ("a red zero above a white one", Wanted(((0, 0), (1, 5)), scenes.DOWN)),
        ("a red zero below a white one", Wanted(((1, 5), (0, 0)), scenes.DOWN)),
        (
            "a red two, a green two and a red two from top to bottom",
            Wanted(((2, 0), (2, 1), (2, 0)), scenes.DOWN),
        ),
    ],
)
def test_what_a_sentence_asks_for(caption, want):
    assert parsed(caption) == want


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "a red fox",
        "a pink three",
        "red three",
        "a red three in the middle",
        "a red three and a blue four",
        "a red three left of a blue four above a white one",
        "a red three left of a blue four in the top left",
        "a red three, a blue four and a white one",
        "A red three",
        "a red three.",
        "a red three\n",
    ],
)
def test_a_sentence_of_another_grammar_asks_for_nothing(caption):
    assert parsed(caption) is None
