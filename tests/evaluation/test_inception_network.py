"""FID's network and its resizing, against plain NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from inception_network import Network, random_tensors, resized

from cfg_jax.evaluation.inception import variables
from cfg_jax.evaluation.inception_network import InceptionV3, resize


@pytest.mark.parametrize(("height", "width"), [(5, 8), (1, 31), (31, 31), (64, 40)])
def test_resizing_is_tensorflow_ones(height, width):
    images = np.random.default_rng(0).uniform(0, 255, (2, height, width, 3)).astype(np.float32)
    want = resized(images.astype(np.float64), 31)
    np.testing.assert_allclose(resize(jnp.asarray(images), 31), want, rtol=0, atol=1e-3)


def test_resizing_aligns_the_first_pixels_and_repeats_the_last():
    ramp = jnp.arange(2.0).reshape(1, 1, 2, 1)
    np.testing.assert_array_equal(resize(ramp, 4)[0, 0, :, 0], [0, 0.5, 1, 1])


@pytest.fixture(scope="module")
def small():
    """Activations of two images on 139 × 139 pixels, 3 × 3 at the end: ours and NumPy's."""
    tensors = random_tensors()
    images = np.random.default_rng(1).integers(0, 256, (2, 40, 90, 3), dtype=np.uint8)
    found = jax.jit(InceptionV3(size=139).apply)(variables(tensors), images)
    return found, Network(tensors)(images, size=139)


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.slow
def test_activations_are_numpys(small, which):
    found, want = small[0][which], small[1][which]
    assert found.shape == want.shape
    assert np.std(want) > 0.01
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_the_published_shapes():
    image, network = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.uint8), InceptionV3()
    found = jax.eval_shape(lambda x: network.init_with_output(jax.random.key(0), x)[0], image)
    assert [leaf.shape for leaf in found] == [(1, 2048), (1, 2023), (1, 1008)]
