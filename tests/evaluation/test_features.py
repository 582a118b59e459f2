"""Features in batches: every image's own, by any function, on any number of devices."""

import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.evaluation import extract, over_devices

IMAGES = np.random.default_rng(0).integers(0, 256, (21, 4, 5, 3), dtype=np.uint8)


def batches(size, images=IMAGES):
    return (images[i : i + size] for i in range(0, len(images), size))


def run(function, size, **options):
    return extract(function, batches(size), count=len(IMAGES), progress=False, **options)


@pytest.mark.parametrize("size", [1, 8, 21, 50])
def test_every_image_gets_its_own_row_whatever_the_batch(size):
    sizes = []

    def function(images):
        sizes.append(len(images))
        return {"mean": images.mean((1, 2, 3)), "pixels": images.reshape(len(images), -1)}

    found = run(function, size)
    np.testing.assert_array_equal(found["pixels"], IMAGES.reshape(21, -1))
    np.testing.assert_allclose(found["mean"], IMAGES.mean((1, 2, 3)))
    assert set(sizes) == {min(size, 21)}


@pytest.mark.parametrize("size", [3, 8, 16])
def test_devices_share_a_batch(size):
    traced = []

    def apply(scale, images):
        traced.append(images.shape)
        return scale * images.astype(jnp.float32).sum((1, 2)), images[:, 0, 0, 0]

    found = run(over_devices(apply, jnp.float32(2.0)), size)
    np.testing.assert_allclose(found[0], 2.0 * IMAGES.sum((1, 2)))
    np.testing.assert_array_equal(found[1], IMAGES[:, 0, 0, 0])
    assert traced == [(-(-size // 8) * 8, 4, 5, 3)]


def test_a_progress_bar_counts_images(capsys):
    extract(lambda x: x[:, 0], batches(8), count=21, name="samples.npz")
    told = capsys.readouterr().err
    assert "samples.npz: 100%" in told
    assert "21/21" in told


@pytest.mark.parametrize("function", [lambda x: x.mean(), lambda x: x[1:], lambda x: 1.0])
def test_a_function_that_loses_images_is_refused(function):
    with pytest.raises(ValueError, match="one row an image: 8 images gave"):
        run(function, 8)


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="no images"):
        extract(lambda x: x, iter(()), count=0, progress=False)
