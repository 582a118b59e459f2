"""The noisy classifier's cross-entropy against Bayes' rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax import schedules
from cfg_jax.objectives import CrossEntropy
from cfg_jax.parts import Setting

SCHEDULE = schedules.Cosine()


def setting(**p_uncond):
    return Setting(SCHEDULE, dict.fromkeys(p_uncond, 2), p_uncond, dict.fromkeys(p_uncond, True))


def test_the_exact_posterior_has_the_least_cross_entropy():
    """-log of Bayes' rule over two classes N(±μ, 0) in float64; other logits lose more."""
    mean, labels = np.array([[0.4, -0.2], [-0.4, 0.2]]), np.arange(4_000) % 2
    x = jnp.asarray(mean[labels], jnp.float32)
    cond = {"label": jnp.asarray(labels)}
    drawn = CrossEntropy().draw(jax.random.key(3), x, cond, setting(label=0.0))

    def classifier(temper, z, logsnr, shown):
        assert shown == {}
        alpha, sigma2 = jnp.sqrt(jax.nn.sigmoid(logsnr)), jax.nn.sigmoid(-logsnr)
        return temper * (alpha / sigma2)[:, None] * (z @ jnp.asarray(mean.T, jnp.float32))

    losses = {
        temper: CrossEntropy().losses(jax.tree_util.Partial(classifier, temper), drawn)
        for temper in (0.7, 1.0, 1.4)
    }
    lam, eps = np.asarray(drawn.logsnr, np.float64)[:, None], np.asarray(drawn.eps, np.float64)
    alpha, sigma = np.sqrt(1 / (1 + np.exp(-lam))), np.sqrt(1 / (1 + np.exp(lam)))
    z = alpha * mean[labels] + sigma * eps
    away = [((z - alpha * m) ** 2).sum(1) / (2 * sigma[:, 0] ** 2) for m in mean]
    own, other = np.where(labels == 0, away, away[::-1])
    np.testing.assert_allclose(losses[1.0], np.logaddexp(0, own - other), rtol=1e-3, atol=1e-5)
    assert losses[1.0].mean() < min(losses[0.7].mean(), losses[1.4].mean())


def test_one_of_several_entries_is_told():
    cond = {"mood": jnp.array([0, 1]), "label": jnp.array([1, 1])}
    objective = CrossEntropy(of="mood")
    drawn = objective.draw(jax.random.key(0), jnp.zeros((2, 1)), cond, setting(mood=0.0, label=0.5))
    logits = jnp.array([[3.0, 1.0], [0.0, 2.0]])
    want = np.log(np.exp(logits).sum(1)) - np.array([3.0, 2.0])
    np.testing.assert_allclose(objective.losses(lambda *_: logits, drawn), want, rtol=1e-5)


@pytest.mark.parametrize(
    ("of", "p_uncond", "line"),
    [
        (None, {"label": 0.1}, "a classifier always sees label: its p_uncond must be 0"),
        (
            None,
            {"label": 0.0, "mood": 0.0},
            "of must name an entry .* one of label, mood; got None",
        ),
        ("colour", {"label": 0.0}, "of must name an entry .* one of label; got 'colour'"),
        (None, {}, "of must name an entry of the condition, one of none; got None"),
    ],
)
def test_what_cannot_be_told_is_refused(of, p_uncond, line):
    cond = {name: jnp.zeros(2, jnp.int32) for name in p_uncond}
    with pytest.raises(ValueError, match=line):
        CrossEntropy(of=of).draw(jax.random.key(0), jnp.zeros((2, 1)), cond, setting(**p_uncond))
