"""Conditions of several parts: what a null hides and keeps, and small images that are noised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from cfg_jax import guidance
from cfg_jax.diffusion import condition
from cfg_jax.diffusion.condition import KEPT, Noisy

KEY = jax.random.key(0)
COND = {
    "label": jnp.array([3, 5]),
    "small": Noisy(jnp.arange(8.0).reshape(2, 2, 2), jnp.array([1.0, 2.0])),
}


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_null_hides_its_parts_and_keeps_the_others():
    found = condition.broadcast({"label": 10, "small": KEPT}, COND)
    same(found, {"label": jnp.array([10, 10]), "small": COND["small"]})
    found = condition.broadcast({"label": KEPT, "small": Noisy(0.0, -20.0)}, COND)
    hidden = Noisy(jnp.zeros((2, 2, 2)), jnp.full(2, -20.0))
    same(found, {"label": COND["label"], "small": hidden})
    same(condition.broadcast(KEPT, COND), COND)


@pytest.mark.parametrize(
    ("null", "message"),
    [
        ({"label": 10}, "structure of the condition"),
        ({"label": 10, "small": 0.0}, "structure of the condition"),
        ({"label": 10, "other": KEPT}, "structure of the condition"),
        ({"label": jnp.zeros(3, jnp.int32), "small": KEPT}, "must be a number or have shape"),
        ({"label": "x", "small": KEPT}, "null must be of int32, got 'x'"),
        ({"label": 0.5, "small": KEPT}, "null must be of int32, got 0.5"),
        ({"label": jnp.array([0.5, 1.0]), "small": KEPT}, "null must be of int32, got"),
        ({"label": float("nan"), "small": KEPT}, "null must be of int32, got nan"),
        ({"label": 2**40, "small": KEPT}, "null must be of int32, got 1099511627776"),
        ({"label": KEPT, "small": Noisy("x", 0.0)}, "null must be of float32, got 'x'"),
    ],
)
def test_a_null_that_does_not_fit_is_refused(null, message):
    with pytest.raises(ValueError, match=message):
        condition.broadcast(null, COND)


def test_a_null_may_be_a_whole_float_and_is_taken_under_jit():
    for null in (10, 10.0, np.float64(10.0), jnp.float32(10.0)):
        found = jax.jit(lambda cond, null=null: condition.broadcast(null, cond))(COND["label"])
        np.testing.assert_array_equal(found, [10, 10])


def test_guidance_hides_one_part_and_keeps_another():
    """(1 + w) ε(c, s) - w ε(∅, s), the image s the same in both halves, each example its own."""

    def eps(z, logsnr, cond):
        told = 1.0 * cond["label"] + cond["small"].z.mean((1, 2)) * cond["small"].logsnr
        return z * told[:, None]

    z, w = jnp.array([[1.0, -2.0], [0.5, 3.0]]), 0.7
    null = {"label": 10, "small": KEPT}
    guided = guidance.classifier_free(eps, w=w, null=null)
    hidden = {**COND, "label": jnp.array([10, 10])}
    want = (1 + w) * eps(z, 0.0, COND) - w * eps(z, 0.0, hidden)
    np.testing.assert_allclose(guided(z, 0.0, COND), want, rtol=1e-6)


def test_augmentation_is_the_forward_process_and_tells_its_level():
    x = jnp.broadcast_to(jnp.array([2.0, -1.0])[:, None], (2, 20_000))
    logsnr = jnp.array([-1.0, 3.0])
    z, told = condition.augmented(KEY, x, logsnr=logsnr, index=jnp.array([4, 7]))
    np.testing.assert_array_equal(told, logsnr)
    alpha2 = 1 / (1 + np.exp(-np.asarray(logsnr, np.float64)))
    for row, mean, spread in zip(
        z, [2.0, -1.0] * np.sqrt(alpha2), np.sqrt(1 - alpha2), strict=True
    ):
        assert stats.kstest((np.asarray(row) - mean) / spread, "norm").pvalue > 1e-3


def test_an_examples_augmentation_depends_on_its_number_alone():
    x = jnp.ones((3, 4))
    many = condition.augmented(KEY, x, logsnr=0.0, index=jnp.arange(3))
    one = condition.augmented(KEY, x[:1], logsnr=0.0, index=jnp.array([2]))
    np.testing.assert_array_equal(one.z[0], many.z[2])
    assert np.abs(many.z[1] - many.z[2]).max() > 0.1
    examples = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(KEY, i), (4,)))
    noise = (many.z - jnp.sqrt(0.5)) / jnp.sqrt(0.5)
    assert np.abs(noise - examples(jnp.arange(3))).min() > 1e-4  # none of the sampler's own draws


def test_clean_small_images_stay_as_they_are():
    x = jax.random.normal(KEY, (2, 3))
    z, _ = condition.augmented(KEY, x, logsnr=20.0, index=jnp.arange(2))
    np.testing.assert_allclose(z, x, atol=3e-4)
