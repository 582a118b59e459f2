"""What all kinds of sources share, and every field of every kind with bad values."""

import dataclasses
import math
import pickle

import pytest

from cfg_jax.data import SOURCES

NEEDED = {name: {"path": "x"} for name in ("Folder", "Captioned", "Shards", "Arrays", "Sounds")}
NAN, INF = math.nan, math.inf

NUMBERS = (-1, 10**9, 10**400, 2.5, NAN, INF, "1", None, True)
BAD = {
    "workers": NUMBERS,
    "image_size": NUMBERS,
    "crop": (0.99, 4.01, 1.5, -1, 10**400, NAN, INF, "1", None, True),
    "buckets": (4, 12, 1032, *NUMBERS),
    "aspect": (0.99, 4.01, -1, 10**400, NAN, INF, "1", None, True),
    "length": NUMBERS,
    "frames": (0, *NUMBERS),
    "size": (7, *NUMBERS),
    "clips": (0, *NUMBERS),
    "scenes": (9, *NUMBERS),
    "rate": (0, 101, *NUMBERS),
    "held_out": (-1, 0, 1, 0.0, 1.0, 2, NAN, INF, -INF, "0.1", None, True, 1j),
    "channels": (0, 2, 4, -1, NAN, "3", None, True),
    "background": ("white", 255, (1, 2), (1, 2, 3, 4), (1, 2, 256), (-1, 2, 3), (1.0, 2, 3), None),
    "path": ("", None, 3, "a\0b", "~nobody_of_this_name/x"),
    "test_path": (None, 3, "a\0b", "~nobody_of_this_name/x"),
    "dir": (None, 3, "a\0b", "~nobody_of_this_name", "~nobody_of_this_name/x"),
    "name": (None, 3, "a\0b"),
    "text": (None, 3, "a\0b"),
    "caption": (None, 3, "a\0b"),
    "flip": (0, 1, "yes", None, NAN),
    "skip_bad": (0, 1, "yes", None, NAN),
}


def _every():
    for kind in SOURCES.values():
        for field in dataclasses.fields(kind):
            for value in BAD[field.name]:
                yield kind, field.name, value


@pytest.mark.parametrize(("kind", "field", "value"), list(_every()))
def test_bad_values_are_refused_in_one_sentence_that_names_the_field(kind, field, value):
    # What the annotation forbids is refused by the tests' type checker, without which by the kind.
    made = kind(**NEEDED.get(kind.__name__, {}))
    unchecked = object.__new__(kind)
    for name, held in (dataclasses.asdict(made) | {field: value}).items():
        object.__setattr__(unchecked, name, held)
    with pytest.raises(ValueError, match=rf"^{field} should ") as error:
        unchecked.__post_init__()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", list(SOURCES.values()))
def test_sources_are_values(kind):
    needed = NEEDED.get(kind.__name__, {})
    source = kind(**needed)
    assert source == kind(**needed) == pickle.loads(pickle.dumps(source))
    assert hash(source) == hash(kind(**needed))
    assert SOURCES[type(source).__name__] is kind
    with pytest.raises(dataclasses.FrozenInstanceError):
        source.workers = 3
    with pytest.raises(ValueError, match="split should be train or test, got 'valid'"):
        source.open("valid")
