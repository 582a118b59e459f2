"""Files of images and statistics as other projects write them, read as they are."""

import re

import numpy as np
import pytest

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
        ({"arr_1": LABELS}, "holds arr_1: expected arr_0 (images), or mu and sigma"),
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
        ({"mu": np.array(["a"]), "sigma": SIGMA}, "is damaged, or no .npz file"),
    ],
)
def test_files_that_hold_something_else_are_refused(tmp_path, arrays, message):
    path = write(tmp_path / "file.npz", **arrays)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        open_archive(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


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
