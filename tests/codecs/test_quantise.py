"""Vector quantisation: who learns from what, how codes are counted, and how they come back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.codecs import quantise

RNG = np.random.default_rng(0)
CODEBOOK = jnp.asarray(RNG.normal(size=(7, 3)), jnp.float32)
Z = jnp.asarray(RNG.normal(size=(2, 4, 5, 3)), jnp.float32)
WEIGHT = jnp.asarray(RNG.normal(size=Z.shape), jnp.float32)


def nearest():
    apart = np.square(np.float64(Z)[..., None, :] - np.float64(CODEBOOK)).sum(-1)
    return apart.argmin(-1)


def test_the_nearest_code_stands_for_a_vector():
    found = quantise.quantise(CODEBOOK, Z)
    np.testing.assert_array_equal(found.codes, nearest())
    np.testing.assert_allclose(found.vectors, CODEBOOK[nearest()], rtol=1e-5, atol=1e-6)
    error = np.square(np.float64(CODEBOOK)[nearest()] - np.float64(Z)).mean((1, 2, 3))
    np.testing.assert_allclose(found.loss, 1.25 * error, rtol=1e-5)


def test_codes_close_to_each_other_and_far_from_zero_are_told_apart():
    close = 1000.0 + 0.01 * CODEBOOK
    z = 1000.0 + 0.01 * Z
    apart = np.square(np.float64(z)[..., None, :] - np.float64(close)).sum(-1)
    np.testing.assert_array_equal(quantise.nearest(close, z), apart.argmin(-1))


@pytest.mark.parametrize("swapped", [False, True])
def test_codes_and_vectors_learn_from_their_own_terms_and_the_decoder_from_neither(swapped):
    """By hand: e_k gets 2 / (N d) Σ (e_k - z_i), z gets β of its own and the decoder's."""
    beta = 0.4

    def loss(codebook, z):
        found = quantise.quantise(codebook, z, beta=beta, swapped=swapped)
        return found.loss.mean() + (found.vectors * WEIGHT).sum()

    by_codes, by_z = jax.grad(loss, argnums=(0, 1))(CODEBOOK, Z)
    codes, (e, z) = nearest(), (np.float64(CODEBOOK), np.float64(Z))
    of_codes, of_vectors = (beta, 1.0) if swapped else (1.0, beta)
    want = np.zeros_like(e)
    for k in range(len(e)):
        want[k] = of_codes * 2 / z.size * (e[k] - z[codes == k]).sum(0)
    np.testing.assert_allclose(by_codes, want, rtol=1e-4, atol=1e-6)
    pulled = of_vectors * 2 / z.size * (z - e[codes])
    np.testing.assert_allclose(by_z, WEIGHT + pulled, rtol=1e-4, atol=1e-6)


def test_an_examples_loss_is_its_own():
    found = quantise.quantise(CODEBOOK, Z)
    alone = quantise.quantise(CODEBOOK, Z[1:])
    np.testing.assert_allclose(found.loss[1:], alone.loss, rtol=1e-6)


def test_counts_of_batches_add_up_and_the_perplexity_of_a_set_passes_that_of_a_batch():
    codes = RNG.integers(0, 64, size=(50, 2, 4))
    counts = [quantise.counts(jnp.asarray(batch), 64) for batch in codes]
    total = sum(counts)
    np.testing.assert_array_equal(total, np.bincount(codes.ravel(), minlength=64))
    assert all(float(quantise.perplexity(one)) <= 8.0001 for one in counts)
    share = np.asarray(total, np.float64) / codes.size
    want = np.exp(-(share[share > 0] * np.log(share[share > 0])).sum())
    np.testing.assert_allclose(quantise.perplexity(total), want, rtol=1e-5)
    assert want > 40


def test_dead_codes_get_vectors_of_their_own_and_live_ones_stay():
    counts = jnp.array([3, 0, 1, 0, 0, 2, 0])
    book, new = jax.jit(quantise.revived)(CODEBOOK, counts, Z, jax.random.key(0))
    np.testing.assert_array_equal(new, counts == 0)
    np.testing.assert_array_equal(book[~new], CODEBOOK[~new])
    vectors = {tuple(v) for v in np.asarray(Z).reshape(-1, 3).tolist()}
    taken = [tuple(v) for v in np.asarray(book[new]).tolist()]
    assert len(set(taken)) == 4
    assert set(taken) <= vectors
    other, _ = quantise.revived(CODEBOOK, counts, Z, jax.random.key(1))
    assert np.abs(other[new] - book[new]).max() > 0.1


def test_no_more_codes_come_back_than_there_are_vectors():
    dead = jnp.array([0, 9, 0, 0, 0, 0, 0])
    book, new = quantise.revived(CODEBOOK, dead, Z[0, 0, :2], jax.random.key(0))
    assert new.sum() == 2
    np.testing.assert_array_equal(book[~new], CODEBOOK[~new])
    taken = sorted(np.asarray(book[new]).tolist())
    assert taken == sorted(np.asarray(Z[0, 0, :2]).tolist())
    _, none = quantise.revived(CODEBOOK, dead, Z, jax.random.key(0), least=0.0)
    assert not none.any()


def test_revived_codes_are_used():
    """Of a codebook far from everything, one code takes all; then all are used."""
    far = CODEBOOK + 100.0
    counts = quantise.counts(quantise.nearest(far, Z), 7)
    assert (counts > 0).sum() == 1
    book, _ = quantise.revived(far, counts, Z, jax.random.key(0))
    again = quantise.counts(quantise.nearest(book, Z), 7)
    assert (again > 0).sum() == 6


def test_many_vectors_are_compared_some_at_a_time(monkeypatch):
    monkeypatch.setattr(quantise, "AT_ONCE", 7)
    np.testing.assert_array_equal(quantise.nearest(CODEBOOK, Z), nearest())
    slopes = jax.grad(lambda z: quantise.quantise(CODEBOOK, z).vectors.sum())(Z)
    np.testing.assert_array_equal(slopes, jnp.ones_like(Z))
