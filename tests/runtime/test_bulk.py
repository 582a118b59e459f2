"""Images in batches: going on where it stopped, and never mixing two jobs."""

import numpy as np
import pytest

from cfg_jax.runtime import bulk

CALLS = []


def draw(offset, numbers):
    """Image i is filled with its number as the job counts, and as its place in the batch does."""
    CALLS.append(offset)
    places = offset + np.arange(len(numbers))
    return (10 * numbers + places % 10).astype(np.uint8)[:, None, None, None]


def collect(parts, draw=draw, **changes):
    arguments = {"count": 10, "batch": 4, "settings": {"seed": 0}, **changes}
    return bulk.collect(draw, parts=parts, **arguments)


def test_every_image_in_order_and_batches_of_one_size(tmp_path):
    sizes = []

    def measuring(offset, numbers):
        sizes.append(len(numbers))
        return draw(offset, numbers)

    images = collect(tmp_path / "parts", measuring)
    np.testing.assert_array_equal(images.ravel(), 11 * np.arange(10))
    assert sizes == [4, 4, 4]


def test_an_interrupted_job_goes_on(tmp_path):
    def interrupted(offset, numbers):
        if offset == 8:
            raise KeyboardInterrupt
        return draw(offset, numbers)

    with pytest.raises(KeyboardInterrupt):
        collect(tmp_path / "parts", interrupted)
    CALLS.clear()
    images = collect(tmp_path / "parts")
    assert CALLS == [8]
    np.testing.assert_array_equal(images.ravel(), 11 * np.arange(10))
    bulk.discard(tmp_path / "parts")
    assert not (tmp_path / "parts").exists()


def test_parts_of_another_job_are_refused(tmp_path):
    collect(tmp_path / "parts")
    with pytest.raises(ValueError, match="seed: 0 -> 1"):
        collect(tmp_path / "parts", settings={"seed": 1})
    with pytest.raises(ValueError, match="batch: 4 -> 5"):
        collect(tmp_path / "parts", batch=5)


def test_settings_of_a_job_that_made_nothing_stand_in_nobodys_way(tmp_path):
    parts = tmp_path / "parts"

    def refused(offset, numbers):
        raise ValueError("no such thing")

    with pytest.raises(ValueError, match="no such thing"):
        collect(parts, refused)
    assert not parts.exists()

    def interrupted(offset, numbers):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(parts, interrupted)
    images = collect(parts, settings={"seed": 1})
    np.testing.assert_array_equal(images.ravel(), 11 * np.arange(10))


def test_parts_that_were_made_outlive_an_error(tmp_path):
    def failing(offset, numbers):
        if offset == 4:
            raise ValueError("out of luck")
        return draw(offset, numbers)

    with pytest.raises(ValueError, match="out of luck"):
        collect(tmp_path / "parts", failing)
    CALLS.clear()
    collect(tmp_path / "parts")
    assert CALLS == [4, 8]


def test_two_jobs_do_not_share_a_folder(tmp_path):
    def both(offset, numbers):
        with pytest.raises(ValueError, match="parts is in use by process"):
            collect(tmp_path / "parts")
        return draw(offset, numbers)

    collect(tmp_path / "parts", both)


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def flip(path):
    content = bytearray(path.read_bytes())
    content[-40] ^= 1  # in the pictures, which come before the sum
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [halve, empty, flip], ids=lambda f: f.__name__)
def test_a_damaged_part_is_made_again_with_a_note(tmp_path, capsys, damage):
    collect(tmp_path / "parts")
    damage(tmp_path / "parts" / "4.npy")
    CALLS.clear()
    images = collect(tmp_path / "parts")
    assert CALLS == [4]
    np.testing.assert_array_equal(images.ravel(), 11 * np.arange(10))
    assert "parts/4.npy is damaged, and made again" in capsys.readouterr().out


@pytest.mark.parametrize("damage", [halve, empty], ids=lambda f: f.__name__)
def test_damaged_settings_are_written_again_and_parts_of_another_job_never_taken(tmp_path, damage):
    collect(tmp_path / "parts")
    damage(tmp_path / "parts" / "settings.json")
    CALLS.clear()
    collect(tmp_path / "parts")
    assert CALLS == []
    damage(tmp_path / "parts" / "settings.json")
    collect(tmp_path / "parts", settings={"seed": 1})
    assert CALLS == [0, 4, 8]


@pytest.mark.parametrize("name", ["thesis.txt", "0.npy", "settings.json.old", "deep/0.npy"])
def test_a_folder_that_is_no_jobs_is_left_alone(tmp_path, name):
    path = tmp_path / "parts" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(
        ValueError, match=f"parts is where .*, and holds {name.split('/')[0]}, which"
    ):
        collect(tmp_path / "parts")
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [path]
    assert path.read_text() == "mine"


def test_an_empty_folder_is_taken_and_so_is_what_a_killed_job_left(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / ".settings.json.123.part").touch()
    assert len(collect(tmp_path / "parts")) == 10
    bulk.discard(tmp_path / "parts")
    assert not (tmp_path / "parts").exists()


def test_what_came_into_the_folder_meanwhile_stays(tmp_path):
    collect(tmp_path / "parts")
    (tmp_path / "parts" / "thesis.txt").write_text("mine")
    bulk.discard(tmp_path / "parts")
    assert [file.name for file in (tmp_path / "parts").iterdir()] == ["thesis.txt"]


def test_the_folder_may_be_a_link(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "parts").symlink_to("there")
    assert len(collect(tmp_path / "parts")) == 10
    assert (tmp_path / "there" / "settings.json").is_file()
    bulk.discard(tmp_path / "parts")
    assert not list((tmp_path / "there").iterdir())
