"""Files are written whole or not at all."""

import os

import pytest

from cfg_jax.runtime.files import atomic


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
