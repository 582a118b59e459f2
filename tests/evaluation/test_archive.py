"""Files of images and statistics as other projects write them, read as they are."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from folders import answered, zipped
from PIL import Image

from cfg_jax.evaluation import archive as room
from cfg_jax.evaluation import open_archive

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (10, 4, 6, 3), dtype=np.uint8)
FACTOR = RNG.normal(size=(5, 5))
MU, SIGMA = RNG.normal(size=5), FACTOR @ FACTOR.T
LABELS = np.arange(10)


def write(path, save=np.savez, **arrays):
    save(path, **arrays)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("size", [1, 4, 10, 64])
def test_images_come_in_batches_and_in_order(tmp_path, save, size):
    """As `sample` and guided-diffusion's image_sample.py write them: arr_0 and arr_1."""
    save(tmp_path / "samples.npz", IMAGES, LABELS)
    archive = open_archive(tmp_path / "samples.npz")
    assert archive.shape == IMAGES.shape
    assert archive.pool is archive.spatial is None
    batches = list(archive.batches(size))
    assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    np.testing.assert_array_equal(np.concatenate(batches), IMAGES)


def test_only_a_batch_is_in_memory(tmp_path, monkeypatch):
    path = write(tmp_path / "samples.npz", arr_0=IMAGES)
    archive, read = open_archive(path), []
    original = room._header

    def recording(file):
        header = original(file)
        whole = file.read
        monkeypatch.setattr(file, "read", lambda n: read.append(n) or whole(n), raising=False)
        return header

    monkeypatch.setattr(room, "_header", recording)
    next(archive.batches(2))
    assert read == [2 * 4 * 6 * 3]


def test_guided_diffusions_references_have_both(tmp_path):
    """VIRTUAL_imagenet…: images, and the statistics of more of them."""
    arrays = {"mu": MU, "sigma": SIGMA, "mu_s": MU[:3], "sigma_s": SIGMA[:3, :3]}
    archive = open_archive(write(tmp_path / "VIRTUAL.npz", arr_0=IMAGES, **arrays))
    assert archive.shape == IMAGES.shape
    np.testing.assert_array_equal(archive.pool.mean, MU)
    np.testing.assert_array_equal(archive.pool.covariance, SIGMA)
    np.testing.assert_array_equal(archive.spatial.mean, MU[:3])
    np.testing.assert_array_equal(archive.spatial.covariance, SIGMA[:3, :3])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_statistics_of_pytorch_fid_and_edm_stand_alone(tmp_path, dtype):
    path = write(tmp_path / "cifar10-32x32.npz", mu=MU.astype(dtype), sigma=SIGMA.astype(dtype))
    archive = open_archive(path)
    assert archive.shape is archive.spatial is archive.pool.count is None
    assert archive.pool.mean.dtype == archive.pool.covariance.dtype == np.float64
    np.testing.assert_array_equal(archive.pool.covariance, SIGMA.astype(dtype))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"arr_1": LABELS}, "holds arr_1: expected images (arr_0, x, image), or mu and sigma"),
        ({"mu": MU}, "holds mu: expected"),
        ({}, "holds nothing: expected"),
        ({"arr_0": IMAGES / 255}, "arr_0 holds float64; images are uint8, from 0 to 255"),
        ({"arr_0": IMAGES.astype(np.int64)}, "arr_0 holds int64"),
        ({"arr_0": IMAGES[0]}, "arr_0 has shape (4, 6, 3)"),
        ({"arr_0": IMAGES.transpose(0, 3, 1, 2).copy()}, "arr_0 has shape (10, 3, 4, 6)"),
        ({"arr_0": IMAGES[:0]}, "arr_0 has shape (0, 4, 6, 3)"),
        ({"arr_0": np.asfortranarray(IMAGES)}, "in C order"),
        ({"mu": MU, "sigma": SIGMA[:4]}, "mu of (5,) and sigma of (4, 5) do not fit"),
        ({"mu": MU[:, None], "sigma": SIGMA}, "do not fit"),
        ({"mu": MU * np.nan, "sigma": SIGMA}, "must be finite"),
        ({"mu": np.array([print]), "sigma": SIGMA}, "is damaged, or no .npz file"),
        ({"mu": np.array(["a"]), "sigma": SIGMA}, "mu holds <U1; statistics are real numbers"),
        ({"mu": MU + 1j, "sigma": SIGMA}, "mu holds complex128; statistics are real numbers"),
        ({"mu": MU, "sigma": SIGMA + 0j}, "sigma holds complex128"),
        ({"mu": MU > 0, "sigma": SIGMA}, "mu holds bool"),
        ({"mu": MU, "sigma": -SIGMA}, "and covariances have none below 0"),
        ({"mu": MU, "sigma": SIGMA - 2 * np.diag(np.eye(5)[0]) * SIGMA.max()}, "none below 0"),
        ({"mu": MU, "sigma": np.triu(np.ones((5, 5)))}, "sigma must be symmetric"),
        ({"mu": MU[:0], "sigma": SIGMA[:0, :0]}, "do not fit together"),
        ({"mu": MU, "sigma": SIGMA * 1e200}, "must be finite, at most 1e+100"),
        ({"mu": MU, "sigma": SIGMA, "mu_s": MU, "sigma_s": -SIGMA}, "sigma_s has the eigenvalue"),
    ],
)
def test_files_that_hold_something_else_are_refused(tmp_path, arrays, message):
    path = write(tmp_path / "file.npz", **arrays)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        open_archive(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_covariances_of_few_samples_in_float32_are_taken(tmp_path):
    """They are singular, and rounded below it."""
    rows = RNG.normal(size=(5, 200)).astype(np.float32) * np.geomspace(1e-3, 1e3, 200)
    sigma = np.cov(rows, rowvar=False).astype(np.float32)
    assert np.linalg.eigvalsh(sigma.astype(np.float64))[0] < 0
    archive = open_archive(write(tmp_path / "few.npz", mu=rows.mean(0), sigma=sigma))
    np.testing.assert_array_equal(archive.pool.covariance, sigma)


@pytest.mark.parametrize("name", ["x", "image"])
def test_images_may_have_the_projects_own_name(tmp_path, name):
    archive = open_archive(write(tmp_path / "data.npz", **{name: IMAGES, "label": LABELS}))
    assert archive.shape == IMAGES.shape
    np.testing.assert_array_equal(np.concatenate(list(archive.batches(4))), IMAGES)


@pytest.fixture
def pictures(tmp_path):
    """A folder of the images, in folders and in none."""

    def make(layout, images=IMAGES):
        for number, image in enumerate(images):
            path = tmp_path / "pictures" / layout.format(number=number, label=number % 2)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
        return tmp_path / "pictures"

    return make


@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize(
    "layout", ["{number}.png", "{label}/{number}.png", "train/{label}/a/{number}.png"]
)
def test_a_folder_or_zip_of_images_is_read_whatever_its_layout(
    tmp_path, pictures, layout, archived
):
    folder = pictures(layout)
    path = Path(shutil.make_archive(tmp_path / "z", "zip", folder)) if archived else folder
    archive = open_archive(path)
    assert archive.shape == IMAGES.shape
    assert archive.pool is archive.spatial is None
    batches = list(archive.batches(4))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    read = {image.tobytes() for batch in batches for image in batch}
    assert read == {image.tobytes() for image in IMAGES}


def test_two_folders_are_told_apart_by_their_files(tmp_path, pictures):
    folder = pictures("{number}.png")
    first = open_archive(folder).identity()
    assert open_archive(folder).identity() == first
    Image.fromarray(IMAGES[3]).save(folder / "0.png")
    assert open_archive(folder).identity() != first


def test_what_is_no_set_of_pictures_is_refused(tmp_path, pictures):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no image"):
        open_archive(tmp_path / "empty")
    os.mkfifo(tmp_path / "pipe")
    error = answered(lambda: open_archive(tmp_path / "pipe"))
    assert "pipe is no regular file" in str(error)
    folder = pictures("{number}.png")
    Image.fromarray(IMAGES[0][:3]).save(folder / "9.png")
    with pytest.raises(ValueError, match=r"the image 9\.png is \(3, 6\) where the first is \(4, 6"):
        list(open_archive(folder).batches(4))
    (folder / "9.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"the image 9\.png cannot be read") as damaged:
        list(open_archive(folder).batches(4))
    assert "\n" not in str(damaged.value)


def test_a_damaged_zip_of_images_is_said_in_a_line(tmp_path, pictures):
    files = {file.name: file.read_bytes() for file in pictures("{number}.png").iterdir()}
    path = zipped(tmp_path / "z.zip", files)
    content = bytearray(path.read_bytes())
    content[content.index(files["5.png"]) + 40] ^= 1
    path.write_bytes(content)
    archive = open_archive(path)
    for read in (archive.identity, lambda: list(archive.batches(16))):
        with pytest.raises(ValueError, match=r"image 5\.png cannot be read \(BadZipFile"):
            read()


def test_what_is_no_archive_is_refused(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        open_archive(tmp_path / "none.npz")
    np.save(tmp_path / "images.npy", IMAGES)
    (tmp_path / "text.npz").write_text("images")
    for name in ("images.npy", "text.npz"):
        with pytest.raises(ValueError, match=r"is damaged, or no \.npz file"):
            open_archive(tmp_path / name)


def test_damaged_images_are_found_when_they_are_read(tmp_path):
    images = RNG.integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
    path = write(tmp_path / "samples.npz", arr_0=images)
    content = bytearray(path.read_bytes())
    content[content.index(images.tobytes()) + 20_000] ^= 1
    path.write_bytes(content)
    archive = open_archive(path)
    with pytest.raises(ValueError, match=r"is damaged.*CRC"):
        list(archive.batches(4))


def test_statistics_alone_give_no_batches(tmp_path):
    archive = open_archive(write(tmp_path / "stats.npz", mu=MU, sigma=SIGMA))
    with pytest.raises(ValueError, match="holds no images"):
        next(archive.batches(4))
