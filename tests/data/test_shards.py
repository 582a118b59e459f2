"""Tar files of pictures: what tarfile finds in them, the splits, and every mistake in them."""

import contextlib
import io
import itertools
import json
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image

from cfg_jax.data import Shards, UnreadableError, batches, tars
from cfg_jax.data.tars import Place


def image(level, *, side=4, form="PNG"):
    out = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), level, np.uint8)).save(out, form, quality=100)
    return out.getvalue()


def tarred(path, members, form=tarfile.PAX_FORMAT):
    """Writes members, name and content, into a tar file."""
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in members:
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    return path


def example(number, *, text="txt", label=True, ending="png", folder=""):
    """The members of an example, whose level is ten times its number."""
    said = {"txt": f"level {number}\n", "json": json.dumps({"caption": f"level {number}"})}
    members = [(f"{folder}{number:04}.{ending}", image(10 * number % 256))]
    if label:
        members.append((f"{folder}{number:04}.cls", f"{number % 2}".encode()))
    if text:
        members.append((f"{folder}{number:04}.{text}", said[text].encode()))
    return members


def both(folder, *, each=4, count=2, **fields):
    """So many tar files of so many examples."""
    for shard in range(count):
        numbers = range(shard * each, (shard + 1) * each)
        members = [member for n in numbers for member in example(n, **fields)]
        tarred(folder / f"train-{shard:03}.tar", members)
    return str(folder / f"train-{{000..{count - 1:03}}}.tar")


def read(path, **fields):
    """What lies there: the level, the label and the caption of each example, in both splits."""
    found = []
    for split in ("train", "test"):
        source = Shards(path=str(path), held_out=0.3, **fields).open(split).source
        for index in range(len(source)):
            held = source[index]
            label = None if "label" not in held else int(held["label"])
            found.append((int(held["x"][0, 0, 0]), label, held.get("text")))
    return sorted(found)


WANTED = [(10 * n, n % 2, (f"level {n}",)) for n in range(8)]


@pytest.mark.parametrize("text", ["txt", "json"])
@pytest.mark.parametrize("ending", ["png", "PNG"])
def test_every_example_has_its_picture_its_label_and_its_caption(tmp_path, text, ending):
    assert read(both(tmp_path, text=text, ending=ending)) == WANTED


@pytest.mark.parametrize(
    ("form", "ending"), [("JPEG", "jpg"), ("JPEG", "jpeg"), ("WEBP", "webp"), ("PNG", "png")]
)
def test_every_format_is_read(tmp_path, form, ending):
    members = [(f"{n}.{ending}", image(40 * n, form=form)) for n in range(4)]
    found = read(tarred(tmp_path / "a.tar", members))
    np.testing.assert_allclose([level for level, *_ in found], [0, 40, 80, 120], atol=2)
    assert {rest for _, *rest in map(tuple, found) for rest in rest} == {None}


def test_a_folder_holds_tar_files_and_a_path_may_be_one(tmp_path):
    both(tmp_path)
    assert read(tmp_path) == WANTED
    assert read(tmp_path / "train-000.tar") == WANTED[:4]


def test_data_know_what_there_is(tmp_path):
    facts = Shards(path=both(tmp_path)).open("train").facts
    assert (facts.shape, facts.class_names, facts.texts) == ((4, 4, 3), ("0", "1"), ("text",))
    assert list(facts.arrays) == ["label"]
    bare = Shards(path=both(tmp_path, text=None, label=False)).peek()
    assert (bare.class_names, bare.texts, dict(bare.arrays)) == ((), (), {})


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_lie_where_tarfile_finds_them(tmp_path, form):
    rng = np.random.default_rng(0)
    long = "folder/" * 10 + "n" * 60  # which takes headers of their own
    sizes = {"a.jpg": 1, "a.seg.png": 512, "b/c.d.txt": 0, "b/e.TXT": 1025, f"{long}.jpg": 700}
    members = [(name, rng.bytes(size)) for name, size in sizes.items()]
    path = tarred(tmp_path / "a.tar", members, form)
    found = tars.index(path)
    assert {f"{key}.{ending}" for key, held in found.items() for ending in held} == {
        "a.jpg", "a.seg.png", "b/c.d.txt", "b/e.txt", f"{long}.jpg",
    }  # fmt: skip
    assert set(found["a"]) == {"jpg", "seg.png"}  # up to the first dot, as webdataset has it
    with tarfile.open(path) as tar:
        for member in tar:
            key, _, ending = member.name.rpartition("/")[2].partition(".")
            folder = member.name.rpartition("/")[0]
            place = found[f"{folder}/{key}" if folder else key][ending.lower()]
            assert tars.read(path, place) == tar.extractfile(member).read()


def test_what_is_hidden_or_beside_the_pictures_is_passed_over(tmp_path):
    members = [member for n in range(8) for member in example(n)]
    members += [("._0001.png", b"mac"), ("readme", b"no ending"), ("0001.mask.png", b"no picture")]
    path = tarred(tmp_path / "a.tar", members)
    with tarfile.open(path, "a") as tar:
        folder = tarfile.TarInfo("folder.of")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    assert read(path) == WANTED


def test_examples_of_folders_are_apart(tmp_path):
    members = [*example(1, folder="a/"), *example(2, folder="b/")]
    members += [(name.replace("0003", "0001"), held) for name, held in example(3, folder="b/")]
    found = read(tarred(tmp_path / "a.tar", members * 1))
    assert [level for level, *_ in found] == [10, 20, 30]


@pytest.mark.parametrize(
    ("braces", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("{1..3}", ["1", "2", "3"]),
        ("{03..01}", ["03", "02", "01"]),
        ("{8..10}{a,b}", ["8a", "8b", "9a", "9b", "10a", "10b"]),
        ("x{098..101}.tar", ["x098.tar", "x099.tar", "x100.tar", "x101.tar"]),
    ],
)
def test_braces_stand_for_names_as_in_a_shell(tmp_path, braces, names):
    for name in names:
        (tmp_path / name).touch()
    assert [path.name for path in tars.named(tmp_path / braces)] == names


def test_the_splits_share_nothing_and_stay_when_examples_are_added(tmp_path):
    def texts(path, split):
        source = Shards(path=path, held_out=0.3).open(split).source
        return {text for index in range(len(source)) for text in source[index]["text"]}

    def held_out(path):
        assert not texts(path, "train") & texts(path, "test")
        return texts(path, "test")

    few = held_out(both(tmp_path, each=20))
    more = held_out(both(tmp_path, each=20, count=3))
    assert few
    assert few == {text for text in more if int(text.split()[1]) < 40}


def test_a_path_of_its_own_may_be_held_out(tmp_path):
    train = both(tmp_path)
    test = tarred(tmp_path / "test.tar", [m for n in (20, 21) for m in example(n)])
    data = Shards(path=train, test_path=str(test))
    assert (len(data.open("train").source), len(data.open("test").source)) == (8, 2)
    assert data.open("test").source[1]["text"] == ("level 21",)
    bare = tarred(tmp_path / "bare.tar", [m for n in (20, 21) for m in example(n, text=None)])
    with pytest.raises(ValueError, match="train and test should have captions alike"):
        Shards(path=train, test_path=str(bare)).open("train")


def test_the_splits_are_of_one_size(tmp_path):
    larger = [("20.png", image(20, side=6)), ("20.cls", b"0"), ("20.txt", b"level 20")]
    data = Shards(path=both(tmp_path), test_path=str(tarred(tmp_path / "test.tar", larger)))
    assert data.open("train").shape == (4, 4, 3)
    with pytest.raises(UnreadableError, match=r"is \(6, 6\) where the first is \(4, 4\)"):
        data.open("test")


def test_large_sets_are_read_as_they_are_needed_the_same_by_workers(tmp_path, monkeypatch):
    path = both(tmp_path)
    monkeypatch.setattr("cfg_jax.data.shards.IN_MEMORY", 10)
    assert read(path) == WANTED
    found = []
    for workers in (0, 1):
        data = Shards(path=path, workers=workers, flip=True).open("train")
        assert pickle.loads(pickle.dumps(data.source))[0]["text"] == data.source[0]["text"]
        with contextlib.closing(batches(data, batch_size=4, seed=0)) as stream:
            found.append(list(itertools.islice(stream, 3)))
    for one, other in zip(*found, strict=True):
        assert one.keys() == other.keys() == {"x", "label", "text", "replaced"}
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_pictures_are_cut_to_one_size_at_random_or_in_the_middle(tmp_path):
    rows, columns = np.meshgrid(np.arange(12), np.arange(20), indexing="ij")
    out = io.BytesIO()
    Image.fromarray(np.stack([rows, columns, rows], -1).astype(np.uint8)).save(out, "PNG")
    path = tarred(tmp_path / "a.tar", [(f"{n}.png", out.getvalue()) for n in range(4)])
    data = Shards(path=str(path), image_size=8, crop=1.5).open("train")
    assert data.source[0]["x"][0, 0].tolist() == [2, 6, 2]
    with contextlib.closing(batches(data, batch_size=400, seed=0)) as stream:
        x = next(stream)["x"]
    assert x.shape == (400, 8, 8, 3)
    assert set(x[:, 0, 0, 0]) == set(range(5))
    assert set(x[:, 0, 0, 1]) == set(range(13))
    assert Shards(path=str(path), image_size=6).open("train").source[0]["x"].shape == (6, 6, 3)


def test_a_field_of_json_may_hold_several_captions(tmp_path):
    members = []
    for n in range(4):
        said = json.dumps({"said": [f"level {n}", f"{n} again"], "caption": 3})
        members += [*example(n, text=None), (f"{n:04}.json", said.encode())]
    path = tarred(tmp_path / "a.tar", members)
    assert [text for *_, text in read(path, caption="said")] == [
        (f"level {n}", f"{n} again") for n in range(4)
    ]
    assert {text for *_, text in read(path)} == {None}  # no text, so no caption


FIRST = [member for n in range(4) for member in example(n)]


@pytest.mark.parametrize(
    ("members", "line"),
    [
        ([("x.txt", b"a"), ("x.cls", b"1")], r"a.tar: the example x has no picture, .jpg, .jpeg,"),
        ([("x.png", image(0)), ("x.cls", b"1")], "the example x has no caption, .txt or .json"),
        ([("x.png", image(0)), ("x.txt", b"")], "the example x has no whole number in a .cls"),
        ([*example(9, label=False), ("0009.cls", b"cat")], "0009 has no whole number in a .cls"),
        ([*example(9, label=False), ("0009.cls", b"-1")], "0009 is of class -1, not from 0 to"),
        ([("x.png", b"no"), ("x.cls", b"1"), ("x.txt", b"")], "the example x cannot be read .Un"),
        ([("x.png", image(0)), ("x.cls", b"1"), ("x.txt", b"\xff")], "x cannot be read .Unicode"),
        ([("x.png", image(0)), ("x.cls", b"1"), ("x.json", b"{")], "x cannot be read .JSONDec"),
        ([("x.png", image(0)), ("x.cls", b"1"), ("x.json", b"{}")], "x cannot be read .KeyErr"),
        (
            [("x.png", image(0)), ("x.cls", b"1"), ("x.json", b'{"caption": "\\ud800"}')],
            "x cannot be read .ValueError: caption holds half of a surrogate pair",
        ),
        ([("x.png", image(0, side=5)), ("x.cls", b"1"), ("x.txt", b"")], r"x is \(5, 5\) where t"),
    ],
)
def test_a_bad_example_is_named_or_left_out(tmp_path, members, line):
    path = str(tarred(tmp_path / "a.tar", FIRST + members))
    with pytest.raises(UnreadableError, match=line) as error:
        read(path)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith("goes on without such examples")
    assert read(path, skip_bad=True) == WANTED[:4]


def test_a_damaged_tar_file_is_named(tmp_path):
    whole = tarred(tmp_path / "a.tar", FIRST).read_bytes()

    def refused(content, line):
        path = tmp_path / "b.tar"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=line) as error:
            Shards(path=str(path), skip_bad=True).open("train")
        assert "\n" not in str(error.value)

    third = tars.index(tmp_path / "a.tar")["0001"]["png"].offset - 512
    broken = bytearray(whole)
    broken[third : third + 40] = b"\xff" * 40
    refused(bytes(broken), f"b.tar is damaged after the member 0000.txt, at byte {third}")
    refused(whole[: third + 520], r"b.tar is damaged, .* the member 0001.png .*unexpected e")
    refused(whole[: third + 100], "b.tar is damaged")
    refused(b"", "b.tar is damaged, compressed or no tar file, after its beginning")
    refused(b"text" * 500, "b.tar is damaged, compressed or no tar file, after its beginning")
    packed = tmp_path / "c.tar"
    with tarfile.open(packed, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.png"))
    refused(packed.read_bytes(), "b.tar is damaged, compressed or no tar file")
    refused(tarred(packed, []).read_bytes(), "b.tar holds no pictures")
    refused(tarred(packed, FIRST[:3]).read_bytes(), "holds one example, or one a class, and none")
    refused(tarred(packed, [*FIRST, FIRST[0]]).read_bytes(), "the member 0000.png is there twice")
    (tmp_path / "b.tar").write_bytes(
        whole[: tars.index(tmp_path / "a.tar")["0003"]["txt"].offset + 512]
    )
    assert read(tmp_path / "b.tar") == WANTED[:4]  # whole, though without what ends a tar file


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_links_are_not_followed(tmp_path, kind):
    (tmp_path / "secret.png").write_bytes(image(7))
    path = tarred(tmp_path / "a.tar", FIRST)
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("0009.png")
        link.type, link.linkname = kind, str(tmp_path / "secret.png")
        tar.addfile(link)
    with pytest.raises(ValueError, match=r"a.tar: the member 0009.png is no regular file"):
        read(path, skip_bad=True)


def test_members_are_read_wherever_their_names_lead(tmp_path):
    """Names are only names: nothing is written or read by them."""
    folder = tmp_path / "in"
    folder.mkdir()
    members = [(f"../../{name}", held) for name, held in FIRST]
    assert read(tarred(folder / "a.tar", members)) == WANTED[:4]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tar", "in"]


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (
            "none.tar",
            r"none.tar does not exist, or is no file: path should be a tar file",
        ),
        ("train-{000..002}.tar", r"train-002.tar does not exist"),
        ("empty", r"empty holds no tar files"),
        ("{0..9999999}", "names more than 1,000,000 tar files"),
        ("{0..999}{0..999}{0..9}", "names more than 1,000,000 tar files"),
        ("{train,train}-000.tar", "names two tar files of one name"),
    ],
)
def test_paths_that_name_nothing_are_refused(tmp_path, path, line):
    both(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=line):
        Shards(path=str(tmp_path / path)).open("train")


def test_a_tar_file_that_shrinks_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("cfg_jax.data.shards.IN_MEMORY", 10)
    path = tarred(tmp_path / "a.tar", FIRST)
    source = Shards(path=str(path)).open("train").source
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(UnreadableError, match="the tar file is shorter than it was"):
        [source[n] for n in range(len(source))]
    with pytest.raises(OSError, match="shorter"):
        tars.read(path, Place(590, 11))


def test_the_fingerprint_follows_the_files(tmp_path):
    def of(*members):
        return (
            Shards(path=str(tarred(tmp_path / "a.tar", [*FIRST, *members])))
            .open("train")
            .fingerprint
        )

    first = of()
    assert of() == first
    assert of(*example(9)) != first
