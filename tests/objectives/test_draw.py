"""What a training example is made of: the distributions of λ, ε and of who is hidden."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from cfg_jax import schedules
from cfg_jax.diffusion.condition import KEPT
from cfg_jax.diffusion.noise import Stream, stream
from cfg_jax.objectives.draw import draw
from cfg_jax.parts import Setting

SCHEDULE = schedules.Cosine()
COUNT = 4096
Z = np.random.default_rng(0).normal(size=(COUNT, 3)).astype(np.float32)


def setting(null=None, p_uncond=None, together=None):
    return Setting(SCHEDULE, null or {}, p_uncond or {}, together or {})


def labels_hidden(p_uncond, null=10):
    return setting({"label": null}, {"label": p_uncond}, {"label": True})


@pytest.fixture(scope="module")
def drawn():
    x, cond = jnp.zeros((COUNT, 2)), {"label": jnp.arange(COUNT) % 10}
    made = jax.jit(lambda key: draw(key, x, cond, labels_hidden(0.2), stratified=False))
    return made(jax.random.key(1))


def test_levels_and_noise_have_their_distributions(drawn):
    cdf = np.asarray(SCHEDULE.cdf(drawn.logsnr))
    assert stats.kstest(cdf, "uniform").pvalue > 1e-3
    assert stats.kstest(np.asarray(drawn.eps).ravel(), "norm").pvalue > 1e-3
    together = np.stack([cdf, *np.asarray(drawn.eps).T, np.asarray(drawn.cond["label"]) == 10])
    correlation = np.corrcoef(together) - np.eye(4)
    assert np.abs(correlation).max() < 5 / np.sqrt(COUNT)


def test_nulls_come_with_their_probability_and_the_rest_keep_their_labels(drawn):
    label = np.asarray(drawn.cond["label"])
    dropped = label == 10
    assert stats.binomtest(int(dropped.sum()), COUNT, 0.2).pvalue > 1e-3
    np.testing.assert_array_equal(label[~dropped], (np.arange(COUNT) % 10)[~dropped])


@pytest.mark.parametrize(("p_uncond", "nulls"), [(0.0, 0), (1.0, 64)])
def test_the_ends_of_p_uncond_are_certain(p_uncond, nulls):
    cond = {"label": jnp.zeros(64, jnp.int32)}
    found = draw(jax.random.key(0), jnp.zeros((64, 1)), cond, labels_hidden(p_uncond, null=3)).cond
    assert int((found["label"] == 3).sum()) == nulls


def test_stratified_levels_fill_every_stratum_in_order():
    drawn = draw(jax.random.key(0), jnp.zeros((32, 1)), {}, setting())
    u = np.asarray(SCHEDULE.u(drawn.logsnr))
    np.testing.assert_array_equal(np.floor(u * 32), np.arange(32))
    assert drawn.cond == {}
    np.testing.assert_array_equal(drawn.weight, np.ones(32))


def test_an_examples_draws_do_not_depend_on_the_batch():
    few, many = (
        draw(
            jax.random.key(5),
            jnp.zeros((n, 3)),
            {"label": jnp.arange(n)},
            labels_hidden(0.5, null=-1),
            stratified=False,
        )
        for n in (3, 9)
    )
    np.testing.assert_array_equal(few.eps, many.eps[:3])
    np.testing.assert_array_equal(few.logsnr, many.logsnr[:3])
    np.testing.assert_array_equal(few.cond["label"], many.cond["label"][:3])


def test_no_two_streams_of_a_key_are_the_same():
    """Neither each other's nor that of an example, in what is drawn for any of 64 examples."""
    key = jax.random.key(7)
    keys = [key, *(stream(key, name) for name in Stream)]
    folded = jax.vmap(lambda key: jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(64)))
    every = folded(jnp.stack(keys)).reshape(-1)
    held = np.concatenate([jax.random.key_data(every), jax.random.key_data(jnp.stack(keys))])
    assert len(np.unique(held, axis=0)) == len(held) == 65 * (1 + len(Stream))


def test_levels_noise_and_hiding_are_of_their_own_streams(drawn):
    """As `fold_in` of the stream's constant and the example's number gives them."""

    def of(name, i):
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(1), name), i)

    for i in (0, 1, 4095):
        u = jax.random.uniform(of(2**32 - 3, i))
        np.testing.assert_allclose(drawn.logsnr[i], SCHEDULE.logsnr(u), rtol=1e-5)
        eps = jax.random.normal(of(2**32 - 4, i), (2,))
        np.testing.assert_allclose(drawn.eps[i], eps, rtol=1e-6)
        hidden = jax.random.uniform(of(2**32 - 5, i), (2,))[0] < 0.2
        assert int(drawn.cond["label"][i]) == (10 if hidden else i % 10)


def test_a_null_that_does_not_fit_is_refused():
    cond = {"label": {"number": jnp.zeros(2, jnp.int32)}}
    with pytest.raises(ValueError, match="null must have the structure of the condition"):
        draw(jax.random.key(0), jnp.zeros((2, 1)), cond, labels_hidden(0.5, null={"other": 1}))


def test_entries_are_hidden_each_with_its_own_probability():
    """An entry is hidden whole, whatever it consists of."""
    told = {"label": jnp.arange(COUNT), "vector": jnp.ones((COUNT, 2))}
    null = {"told": {"label": -1, "vector": 0.0}, "small": jnp.full(3, 9.0), "kept": KEPT}
    cond = draw(
        jax.random.key(2),
        jnp.zeros((COUNT, 1)),
        {"told": told, "small": Z, "kept": Z},
        setting(
            null,
            {"told": 0.3, "small": 0.1, "kept": 0.0},
            {"told": False, "small": False, "kept": True},
        ),
    ).cond
    label = np.asarray(cond["told"]["label"]) == -1
    small = np.all(np.asarray(cond["small"]) == 9.0, axis=1)
    np.testing.assert_array_equal(label, np.all(np.asarray(cond["told"]["vector"]) == 0.0, axis=1))
    np.testing.assert_array_equal(np.asarray(cond["small"])[~small], Z[~small])
    np.testing.assert_array_equal(cond["kept"], Z)
    for hidden, p in ((label, 0.3), (small, 0.1), (label & small, 0.03)):
        assert stats.binomtest(int(hidden.sum()), COUNT, p).pvalue > 1e-3
