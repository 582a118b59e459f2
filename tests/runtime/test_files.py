"""Files are written whole or not at all; arrays are read from files of every kind of damage."""

import io
import json
import os
import pickle
import pwd
import stat
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from folders import answered

from cfg_jax.runtime.files import (
    atomic,
    cache,
    folder,
    once,
    read_arrays,
    read_object,
    read_text,
)


def write_atomically(path, content):
    with atomic(path) as file:
        file.write(content)


def test_content_replaces_content_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "file"
    for content in (b"first, and longer", b"second"):
        write_atomically(path, content)
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_meets_the_old_content_until_the_new_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def stopped(source, target):
        assert target.read_bytes() == b"old"
        assert source.read_bytes() == b"new"
        raise OSError("stopped here")

    monkeypatch.setattr(os, "replace", stopped)
    with pytest.raises(OSError, match="stopped here"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path):
    (tmp_path / "there").mkdir()
    for name in ("there/file", "there/other"):
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(name)
        write_atomically(tmp_path / "link", b"new")
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / name).read_bytes() == b"new"
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match=r"[Ss]ymbolic links|[Ss]ymlink") as error:
        write_atomically(tmp_path / "loop", b"new")
    assert error.value.filename == str(tmp_path / "loop")
    assert (tmp_path / "loop").is_symlink()


@pytest.mark.parametrize("linked", [False, True])
def test_a_pipe_is_not_replaced_by_a_file(tmp_path, linked):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    path = tmp_path / "link" if linked else pipe
    if linked:
        path.symlink_to(pipe)
    with pytest.raises(OSError, match="is a device or a pipe") as refused, atomic(path):
        pass
    assert refused.value.filename == str(path)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert not list(tmp_path.glob("*.part"))


def test_a_user_without_a_home_keeps_things_among_the_temporary_files(monkeypatch):
    def nobody(number):
        raise KeyError(number)

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert cache() == Path(tempfile.gettempdir()) / f"cfg_jax-{os.getuid()}"
    monkeypatch.setenv("HOME", "/home/me")
    assert cache() == Path("/home/me/.cache/cfg_jax")


def array_file(claimed=(2, 2), pickled=False):
    """An .npy file of 2×2 numbers whose header may claim another shape."""
    written = io.BytesIO()
    if pickled:
        np.save(written, np.array([print], object), allow_pickle=True)
        return written.getvalue()
    header = {"descr": "<f4", "fortran_order": False, "shape": claimed}
    np.lib.format.write_array_header_1_0(written, header)
    return written.getvalue() + np.ones((2, 2), np.float32).tobytes()


def archive(content, compression=zipfile.ZIP_DEFLATED):
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", compression) as file:
        file.writestr("x.npy", content)
    return bytearray(written.getvalue())


def altered(archived, at, value):
    """The same with two bytes of both its headers of a member changed."""
    for signature, offset in ((b"PK\3\4", at), (b"PK\1\2", at + 2)):
        place = archived.index(signature) + offset
        archived[place : place + 2] = value.to_bytes(2, "little")
    return archived


DAMAGED = {
    "encrypted": altered(archive(array_file()), 6, 1),
    "compressed as nothing known": altered(archive(array_file()), 8, 99),
    "not as it says": altered(archive(array_file()), 8, zipfile.ZIP_LZMA),
    "a header of petabytes": archive(array_file((10**15,))),
    "a header of more than 64 bits": archive(array_file((10**30,))),
    "a negative shape": archive(array_file((-1, 4))),
    "a pickle": archive(array_file(pickled=True)),
    "a pickle alone": pickle.dumps([1, 2]),
    "no array": archive(b"x"),
    "half": archive(array_file())[:60],
    "nothing": b"",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_npz_is_said_in_a_line(tmp_path, name):
    path = tmp_path / "file.npz"
    path.write_bytes(DAMAGED[name])
    with pytest.raises(ValueError, match=r"file\.npz cannot be read as an \.npz file"):
        read_arrays(path, ("x",))


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    lines = {
        "pipe": "pipe is no regular file",
        "none": "none does not exist",
        ".": f"{tmp_path} is a folder, not a file",
        "x" * 300: "x does not exist",
    }
    for name, line in lines.items():
        for read in (read_text, lambda path: read_arrays(path, ("x",))):
            error = answered(lambda read=read, path=tmp_path / name: read(path))
            assert isinstance(error, ValueError)
            assert str(error).endswith(line)


def test_a_text_is_in_utf_8(tmp_path):
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    with pytest.raises(ValueError, match=r"picture\.png cannot be read as text in UTF-8: 'utf-8'"):
        read_text(tmp_path / "picture.png")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{", r"is no JSON, or cut short: Expecting"),
        ("[" * 100_000, "is no JSON, or cut short: maximum recursion"),
        ("[1]", "holds no JSON object"),
        ("null", "holds no JSON object"),
    ],
)
def test_an_object_of_json_is_one(tmp_path, text, line):
    path = tmp_path / "config.json"
    path.write_text('{"a": 1}')
    assert read_object(path) == {"a": 1}
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"config\.json {line}"):
        read_object(path)


def test_a_folder_is_there_or_can_be_made(tmp_path):
    assert folder(tmp_path) == tmp_path
    assert folder(tmp_path / "new") == tmp_path / "new"
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("file", "dangling"):
        with pytest.raises(ValueError, match=f"{name} is no folder, and stands where one should"):
            folder(tmp_path / name)


def test_the_home_directory_is_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "file.npz").write_bytes(archive(array_file()))
    np.testing.assert_array_equal(read_arrays("~/file.npz", ("x",))["x"], np.ones((2, 2)))
    with pytest.raises(ValueError, match="does not exist"):
        read_arrays("~nobody_of_this_name/file.npz", ("x",))


@pytest.mark.parametrize("name", ["a", "__metadata__"])
def test_a_name_of_json_stands_once(name):
    assert json.loads('{"a": {"b": 1, "c": [{"b": 2}]}}', object_pairs_hook=once)["a"]["b"] == 1
    with pytest.raises(ValueError, match=f"'{name}' stands there twice"):
        json.loads(f'{{"x": [{{"{name}": 1, "b": 2, "{name}": 1}}]}}', object_pairs_hook=once)


def test_arrays_are_read_by_name(tmp_path):
    path = tmp_path / "file.npz"
    path.write_bytes(archive(array_file()))
    np.testing.assert_array_equal(read_arrays(path, ("x", "y"))["x"], np.ones((2, 2)))
    with pytest.raises(ValueError, match="holds no y"):
        read_arrays(path, (), needed=("y",))
