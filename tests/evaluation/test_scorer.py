"""The classifier: the images it takes, what its features are, and what they do not depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.evaluation.scorer import Classifier

NET = Classifier(num_classes=5, channels=4, features=6)


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (3, 8, 8, 1)), jnp.float32)


@pytest.fixture(scope="module")
def params(images):
    return jax.jit(NET.init)(jax.random.key(0), images)


@pytest.mark.parametrize("shape", [(8, 8, 1), (9, 13, 3), (28, 28, 1), (32, 32, 3), (64, 48, 2)])
def test_takes_images_of_any_size(shape):
    x = jnp.zeros((2, *shape))
    (logits, features), _ = jax.eval_shape(NET.init_with_output, jax.random.key(0), x)
    assert logits.shape == (2, 5)
    assert features.shape == (2, 6)


@pytest.mark.parametrize(("shape", "stages"), [((8, 8, 1), 2), ((9, 20, 1), 3), ((32, 32, 3), 4)])
def test_halves_until_the_shorter_side_is_at_most_four(shape, stages):
    params = jax.eval_shape(NET.init, jax.random.key(0), jnp.zeros((1, *shape)))["params"]
    widths = [params[f"Conv_{2 * stage}"]["Conv_0"]["kernel"].shape[-1] for stage in range(stages)]
    assert widths == [4, 8, 16, 16][:stages]
    assert f"Conv_{2 * stages}" not in params


@pytest.mark.parametrize("shape", [(7, 8, 1), (32, 4, 3)])
def test_smaller_images_are_refused(shape):
    with pytest.raises(ValueError, match="at least 8×8"):
        NET.init(jax.random.key(0), jnp.zeros((1, *shape)))


def test_logits_are_one_linear_layer_above_the_features(images, params):
    logits, features = NET.apply(params, images)
    last = params["params"]["Dense_1"]
    expected = np.asarray(features, np.float64) @ last["kernel"] + last["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


def test_an_image_is_classified_alone_as_in_a_batch(images, params):
    together, _ = NET.apply(params, images)
    alone = [NET.apply(params, image[None])[0][0] for image in images]
    np.testing.assert_allclose(together, np.stack(alone), rtol=1e-4, atol=1e-5)


def test_half_precision_gives_float32_close_to_float32(images, params):
    exact, _ = NET.apply(params, images)
    half = Classifier(num_classes=5, channels=4, features=6, dtype=jnp.bfloat16)
    logits, features = half.apply(params, images)
    assert logits.dtype == features.dtype == jnp.float32
    np.testing.assert_allclose(logits, exact, atol=0.03)
