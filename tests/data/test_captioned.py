"""Pictures with captions: tables and text files, and every mistake in them."""

import json

import numpy as np
import pytest
from folders import write, zipped
from PIL import Image

from cfg_jax.data import Captioned, UnreadableError, batches


def png(level, side=4):
    import io

    out = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), level, np.uint8)).save(out, "PNG")
    return out.getvalue()


def lines(*rows):
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


def row(name, text):
    return {"file_name": name, "text": text}


PICTURES = {f"{n}.png": png(10 * n) for n in range(6)}
CAPTIONS = {f"{n}.png": f"level {n}" for n in range(6)}
TABLE = lines(*(row(*item) for item in CAPTIONS.items()))
AS_CSV = ("file_name,text\n" + "\n".join(f"{n},{t}" for n, t in CAPTIONS.items())).encode()
BESIDE = {f"{n}.txt": f"level {n}\n".encode() for n in range(6)}


def read(path, **fields):
    """What lies there, by captions: the level of each picture."""
    found = {}
    for split in ("train", "test"):
        source = Captioned(path=str(path), held_out=0.3, **fields).open(split).source
        for i in range(len(source)):
            example = source[i]
            found[example["text"]] = int(example["x"][0, 0, 0])
    return found


WANTED = {(f"level {n}",): 10 * n for n in range(6)}


@pytest.mark.parametrize("pack", [write, zipped])
@pytest.mark.parametrize(
    "beside",
    [{"metadata.jsonl": TABLE}, {"metadata.csv": AS_CSV}, BESIDE],
    ids=["jsonl", "csv", "txt"],
)
def test_every_layout_gives_each_picture_its_caption(tmp_path, pack, beside):
    place = tmp_path / ("pictures.zip" if pack is zipped else "pictures")
    assert read(pack(place, PICTURES | beside)) == WANTED


def test_splits_have_tables_of_their_own(tmp_path):
    files = {}
    for split, numbers in {"train": range(4), "test": range(4, 6)}.items():
        files |= {f"{split}/{n}.png": PICTURES[f"{n}.png"] for n in numbers}
        files[f"{split}/metadata.jsonl"] = lines(*(row(f"{n}.png", f"level {n}") for n in numbers))
    place = write(tmp_path / "p", files)
    assert read(place) == WANTED
    train = Captioned(path=str(place)).open("train")
    assert len(train.source) == 4
    assert train.facts.texts == ("text",)


def test_a_picture_may_have_several_captions_of_any_text(tmp_path):
    odd = ["", 'a "quoted", line', "ünïcode 日本語 🙂", "long " * 500]
    table = lines(row("0.png", odd), *(row(f"{n}.png", f"level {n}") for n in range(1, 6)))
    found = read(write(tmp_path / "p", PICTURES | {"metadata.jsonl": b"\xef\xbb\xbf" + table}))
    assert found[tuple(odd)] == 0
    twice = AS_CSV + b'\n3.png,"another, quoted\nover two lines"\n'
    found = read(write(tmp_path / "q", PICTURES | {"metadata.csv": twice}))
    assert found["level 3", "another, quoted\nover two lines"] == 30


@pytest.mark.parametrize(
    ("beside", "line"),
    [
        ({"metadata.jsonl": TABLE + b"\n{"}, r"line 7 of metadata.jsonl is no"),
        ({"metadata.jsonl": TABLE + b"\n\n[1]"}, r"line 8 of metadata.jsonl is no"),
        ({"metadata.jsonl": TABLE + b'\n{"file_name": 3, "text": "a"}'}, "line 7 of metadata"),
        ({"metadata.jsonl": TABLE + b'\n{"file_name": "0.png"}'}, "line 7 .*KeyError: 'text'"),
        ({"metadata.jsonl": TABLE + b'\n{"file_name": "0.png", "text": []}'}, "line 7 of metad"),
        ({"metadata.jsonl": TABLE + b'\n{"file_name": "9.png", "text": "a"}'}, "'9.png', and the"),
        ({"metadata.jsonl": TABLE + b'\n{"file_name": "../9.png", "text": "a"}'}, "'../9.png', a"),
        (
            {"metadata.jsonl": TABLE + b'\n{"file_name": "0.png", "text": ["a", "\\ud800 x"]}'},
            r"line 7 of metadata.jsonl .*text holds half of a surrogate pair: '.ud800 x'",
        ),
        (
            {"metadata.jsonl": TABLE + b'\n{"file_name": "0.png", "text": "a", "text": "b"}'},
            "line 7 of metadata.jsonl is no .*'text' stands there twice",
        ),
        ({"metadata.csv": b"file_name,text,text\n0.png,a,b"}, "two columns have one name"),
        ({"metadata.csv": b"name,text\n0.png,a"}, "line 2 of metadata.csv .*'file_name'"),
        ({"metadata.csv": AS_CSV + b"\n0.png"}, "line 8 of metadata.csv is no"),
        ({"metadata.csv": AS_CSV + b"\n0.png,a fox, on snow"}, "line 8 .* has more fields than"),
        ({"metadata.csv": AS_CSV + b'\n0.png,"a fox'}, "of metadata.csv is no .*unexpected end"),
        ({"metadata.csv": AS_CSV + b"\n0.png," + b"a" * 200_000}, "field larger than field limit"),
        ({"metadata.jsonl": TABLE + b"\n" + b"[" * 100_000}, "line 7 of metadata.jsonl is no"),
        ({"metadata.jsonl": b"\xff\xfe"}, "metadata.jsonl cannot be read .UnicodeDecodeError"),
        (
            {"metadata.jsonl": lines(row("0.png", "a"))},
            r"the picture 1.png has no caption; skip_bad",
        ),
        ({"metadata.jsonl/a": b""}, r"metadata.jsonl is a folder, not a file"),
        ({"0.txt": b"a"}, r"the picture 1.png has no caption; skip_bad"),
        ({}, "the picture 1.png has no caption"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(tmp_path, beside, line):
    place = write(tmp_path / "p", PICTURES | beside)
    with pytest.raises(ValueError, match=line) as error:
        read(place)
    assert "\n" not in str(error.value)


def test_pictures_without_captions_and_damaged_ones_are_left_out_if_so_said(tmp_path, caplog):
    files = PICTURES | {"metadata.jsonl": TABLE, "6.png": png(60), "4.png": b"\x89PNG no"}
    found = read(write(tmp_path / "p", files), skip_bad=True)
    assert found == {k: v for k, v in WANTED.items() if v != 40}
    with pytest.raises(UnreadableError, match=r"4.png cannot be read .*; skip_bad"):
        read(write(tmp_path / "q", files | {"metadata.jsonl": TABLE, "6.txt": b""}) / ".")


def test_sizes_are_brought_to_one_or_refused(tmp_path):
    place = write(tmp_path / "p", PICTURES | {"metadata.jsonl": TABLE, "2.png": png(20, side=8)})
    with pytest.raises(UnreadableError, match=r"2.png is \(8, 8\) where the first is \(4, 4\)"):
        read(place)
    assert read(place, image_size=4) == WANTED


def test_the_splits_are_of_one_size(tmp_path):
    files = {
        f"{split}/{n}.{ending}": content
        for split, side in (("train", 4), ("test", 6))
        for n in range(2)
        for ending, content in (("png", png(10, side=side)), ("txt", b"a level"))
    }
    data = Captioned(path=str(write(tmp_path / "p", files)))
    assert data.open("train").shape == (4, 4, 3)
    with pytest.raises(UnreadableError, match=r"is \(6, 6\) where the first is \(4, 4\)"):
        data.open("test")


def test_the_fingerprint_follows_the_captions(tmp_path):
    def of(beside):
        place = write(tmp_path / "p", PICTURES | beside)
        return Captioned(path=str(place), held_out=0.3).open("train").fingerprint

    first = of({"metadata.jsonl": TABLE})
    assert of({"metadata.jsonl": TABLE}) == first
    assert of({"metadata.jsonl": TABLE.replace(b"level 3", b"level 8")}) != first


def test_large_sets_are_read_as_they_are_needed(tmp_path, monkeypatch):
    monkeypatch.setattr("cfg_jax.data.captioned.IN_MEMORY", 10)
    place = write(tmp_path / "p", PICTURES | {"metadata.jsonl": TABLE})
    assert read(place) == WANTED
    data = Captioned(path=str(place), held_out=0.3, workers=1).open("train")
    stream = batches(data, batch_size=4, seed=0)
    try:
        batch = next(stream)
    finally:
        stream.close()
    for x, text in zip(batch["x"], batch["text"], strict=True):
        assert WANTED[str(text),] == x[0, 0, 0]
