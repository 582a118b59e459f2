import os
import zipfile

import pytest
from folders import write, zipped

from cfg_jax.data.folder import IMAGES
from cfg_jax.data.tree import find


def _classes(path):
    return find(path, IMAGES)[""].class_names


@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["10", "9", "2", "0"], ("0", "2", "9", "10")),
        (["10", "2", "two"], ("10", "2", "two")),
        (["10", "010", "9"], ("9", "010", "10")),
        (["class10", "class9"], ("class10", "class9")),
        (["-1", "2"], ("-1", "2")),
    ],
)
def test_folders_that_are_numbers_are_in_their_order(tmp_path, folders, expected, archived):
    files = {f"{name}/a.png": b"" for name in folders}
    path = zipped(tmp_path / "x", files) if archived else write(tmp_path / "x", files)
    assert _classes(path) == expected


def test_folders_of_the_same_name_as_text_are_refused(tmp_path):
    for name in (b"caf\xe9", "caf\u00e9".encode()):
        os.makedirs(os.path.join(os.fsencode(tmp_path), name))
        open(os.path.join(os.fsencode(tmp_path), name, b"a.png"), "w").close()
    with pytest.raises(ValueError, match="two class folders have the name 'caf\u00e9'"):
        _classes(tmp_path)


@pytest.mark.parametrize("archived", [False, True])
def test_folders_whose_names_are_spelled_alike_are_refused(tmp_path, archived):
    files = {f"{name}/a.png": b"" for name in ("caf\u00e9", "cafe\u0301")}
    path = zipped(tmp_path / "x", files) if archived else write(tmp_path / "x", files)
    with pytest.raises(ValueError, match="two class folders have the name 'caf\u00e9'"):
        _classes(path)


@pytest.mark.parametrize("form", ["/{}", "./{}", "x/./{}", "{}", "a//{}"])
@pytest.mark.parametrize("between", ["/", "\\"])
def test_a_zip_may_be_packed_by_any_tool(tmp_path, form, between):
    files = {form.format(f"{name}/1.png"): name.encode() for name in ("cat", "dog")}
    path = zipped(tmp_path / "x", {n.replace("/", between): files[n] for n in files})
    found = find(path, IMAGES)[""]
    assert found.class_names == ("cat", "dog")
    assert [found.read(file) for file in found.files] == [b"cat", b"dog"]
    assert found.fingerprint(found.files)


@pytest.mark.parametrize("wrapper", ["", "a/", "a/b/c/"])
def test_folders_around_the_class_folders_are_looked_through(tmp_path, wrapper):
    files = {f"{wrapper}{name}/1/2/x.png": b"" for name in ("cat", "dog")} | {"README": b""}
    found = find(write(tmp_path / "x", files), IMAGES)[""]
    assert (found.prefix, found.class_names) == (wrapper, ("cat", "dog"))
    assert found.files == ("cat/1/2/x.png", "dog/1/2/x.png")


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        ("train test", ("train", "test")),
        ("Train VAL", ("Train", "VAL")),
        ("training testing", ("training", "testing")),
    ],
)
def test_folders_of_two_splits_are_the_splits(tmp_path, folders, splits):
    files = {f"{name}/{label}/a.png": b"" for name in folders.split() for label in "01"}
    found = find(write(tmp_path / "x", files), IMAGES)
    assert {split: tree.prefix for split, tree in found.items()} == {
        "train": f"{splits[0]}/",
        "test": f"{splits[1]}/",
    }
    assert all(tree.class_names == ("0", "1") for tree in found.values())


@pytest.mark.parametrize("below", ["a.png", "cat/a.png"])
@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize(
    ("folders", "named"),
    [
        ("train val test", "test, train, val"),
        ("Train Valid Test", "Test, Train, Valid"),
        ("val test", "test, val"),
        ("train Train", "Train, train"),
        ("train test extra", "test, train"),
    ],
)
def test_folders_of_other_splits_are_no_classes(tmp_path, folders, named, archived, below):
    files = {f"{name}/{below}": b"" for name in folders.split()}
    path = zipped(tmp_path / "x", files) if archived else write(tmp_path / "x", files)
    message = f"the folders {named} look like splits, .*: give path and test_path one each"
    with pytest.raises(ValueError, match=message) as error:
        find(path, IMAGES)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("folders", [("train", "car"), ("test", "car"), ("val", "test", "car")])
def test_a_class_may_have_the_name_of_a_split(tmp_path, folders):
    assert _classes(write(tmp_path, {f"{name}/a.png": b"" for name in folders})) == tuple(
        sorted(folders)
    )


@pytest.mark.parametrize("name", ["../a/2.png", "a/../../b/2.png", "..\\a\\2.png"])
def test_members_that_would_lie_outside_a_zip_are_refused(tmp_path, name):
    path = zipped(tmp_path / "x", {"a/1.png": b"", name: b""})
    with pytest.raises(ValueError, match=r"x: .*2\.png would lie outside it$"):
        find(path, IMAGES)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.symlink_to(path), r"cannot be opened \((Symlink loop|Too many levels)"),
        (os.mkfifo, "is neither a folder nor a zip"),
        (lambda path: path.write_bytes(b""), "is neither a folder nor a zip"),
        (lambda path: path.symlink_to("nowhere"), "does not exist"),
        (lambda path: None, "does not exist"),
    ],
)
def test_paths_that_are_neither_folder_nor_zip_are_refused(tmp_path, make, message):
    make(tmp_path / "x")
    with pytest.raises(ValueError, match=message) as error:
        find(tmp_path / "x", IMAGES)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("x" * 5000, r"cannot be opened \(File name too long\)"),
        ("~nobody-of-this-name/x", "cannot be opened|does not exist"),
    ],
)
def test_names_that_are_no_paths_are_refused(path, message):
    with pytest.raises(ValueError, match=message):
        find(path, IMAGES)


def test_a_path_below_a_file_is_refused(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(ValueError, match=r"cannot be opened \(Not a directory|does not exist"):
        find(tmp_path / "x" / "y", IMAGES)


@pytest.mark.parametrize("target", [".", "..", "../.."])
def test_links_that_lead_back_are_refused(tmp_path, target):
    root = write(tmp_path / "x", {"cat/a.png": b"", "dog/deep/b.png": b""})
    (root / "dog" / "deep" / "back").symlink_to(target)
    with pytest.raises(ValueError, match="back is a link to a folder that it lies in"):
        find(root, IMAGES)


def test_two_links_to_one_folder_are_no_loop(tmp_path):
    write(tmp_path, {"a.png": b""})
    (tmp_path / "shared").mkdir()
    write(tmp_path / "shared", {"a.png": b""})
    (tmp_path / "x").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "x" / name).symlink_to(tmp_path / "shared")
    assert _classes(tmp_path / "x") == ("cat", "dog")


def test_a_zip_with_a_broken_directory_is_refused(tmp_path):
    path = zipped(tmp_path / "x.zip", {"cat/a.png": b"1" * 500})
    data = bytearray(path.read_bytes())
    start = data.index(b"PK\x01\x02")
    data[start : start + 4] = b"oops"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="cannot be read as a zip"):
        find(path, IMAGES)


def test_a_zip_is_read_anew_once_it_was_written_to(tmp_path):
    for content in (b"first", b"and second"):
        path = zipped(tmp_path / "x.zip", {"cat/a.png": content, "cat/b.png": b""})
        assert find(path, IMAGES)[""].read("cat/a.png") == content


def test_a_name_that_stands_twice_in_a_zip_counts_once(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("cat/a.png", b"1")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("cat/a.png", b"2")
    assert find(tmp_path / "x.zip", IMAGES)[""].files == ("cat/a.png",)
