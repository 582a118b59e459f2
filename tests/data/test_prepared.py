"""Prepared data that a power cut, or somebody, has damaged: a line that names the folder."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from folders import write
from PIL import Image

from cfg_jax.data import Digits, Folder

RECORDS = ("train.array_record", "test.array_record")
DESCRIPTIONS = ("dataset_info.json", "features.json")
EMPTY, HALF, OTHER = "empty", "half", "other"


def picture(level):
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), level, np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path, source):
    files = {f"{name}/{n}.png": picture(n) for name in ("cat", "dog") for n in range(6)}
    return source(Folder, path=write(tmp_path / "pictures", files))


@pytest.fixture
def digits(source):
    return source(Digits)


def damage(path, how):
    whole = path.read_bytes()
    if how is None:
        path.unlink()
    else:
        path.write_bytes({EMPTY: b"", HALF: whole[: len(whole) // 2], OTHER: b'{"a": 3}'}[how])


@pytest.mark.parametrize("kind", ["folder", "digits"])
@pytest.mark.parametrize(
    ("ending", "how"),
    [
        *((ending, how) for ending in DESCRIPTIONS for how in (None, EMPTY, HALF, OTHER)),
        *((ending, how) for ending in RECORDS for how in (None, EMPTY)),
    ],
)
@pytest.mark.slow
def test_what_is_damaged_is_named_and_prepared_again_once_removed(request, kind, ending, how):
    data = request.getfixturevalue(kind)
    split = ending.partition(".")[0] if ending in RECORDS else "train"
    whole = data.open(split).source[0]["x"]
    (prepared,) = (path for path in Path(data.dir).iterdir() if path.name.startswith(kind))
    (path,) = (path for path in prepared.rglob("*") if ending in path.name)
    damage(path, how)
    with pytest.raises(ValueError, match=r"is damaged .*: remove that folder, and it is p") as told:
        data.open(split)
    named = str(told.value).removeprefix("what was prepared in ").partition(" is damaged")[0]
    assert Path(named).is_relative_to(prepared)
    shutil.rmtree(named)
    np.testing.assert_array_equal(data.open(split).source[0]["x"], whole)
