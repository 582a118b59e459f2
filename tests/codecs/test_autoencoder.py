"""Autoencoders of latents: what depends on what, sizes and scales, without torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import random_variables
from scipy import stats

from cfg_jax.codecs import KL, VQ, Moments
from cfg_jax.nn import patched, unpatched
from cfg_jax.parts import Codec, through

TINY = {"channels": 4, "channel_mult": (1, 2), "blocks": 1, "latent_channels": 2}
RNG = np.random.default_rng(0)


def data(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


@pytest.fixture(scope="module")
def kl():
    codec = KL(**TINY, scale=0.5, shift=0.25)
    return codec, random_variables(codec, data(1, 4, 4, 3))


@pytest.fixture(scope="module")
def vq():
    codec = VQ(**TINY, entries=6)
    return codec, random_variables(codec, data(1, 4, 4, 3))


@pytest.mark.parametrize("codec", [KL(), VQ()])
def test_both_are_codecs_without_a_bound(codec):
    assert isinstance(codec, Codec)
    assert codec.bound is None
    assert codec.factor == 8
    assert hash(codec) == hash(codec.clone())


def count(codec):
    leaves = jax.tree.leaves(codec.shapes((codec.factor, codec.factor, 3)))
    return sum(leaf.size for leaf in leaves)


@pytest.mark.parametrize(
    ("codec", "parameters"),
    [
        (KL(), 83_653_863),
        (KL(latent_channels=16, quant_conv=False, post_quant_conv=False), 83_819_683),
        (VQ(channel_mult=(1, 2, 4)), 55_322_782),
    ],
)
def test_published_autoencoders_have_their_numbers_of_parameters(codec, parameters):
    assert count(codec) == parameters


@pytest.mark.parametrize(
    ("shape", "latent"),
    [((8, 1), (4, 2)), ((4, 6, 3), (2, 3, 2)), ((3, 4, 2, 1), (3, 2, 1, 2))],
)
def test_sides_of_space_are_divided_and_frames_are_not(shape, latent):
    codec = KL(**TINY, data_channels=shape[-1], attention_factors=(2,))
    x = jax.ShapeDtypeStruct((2, *shape), jnp.float32)

    def there_and_back(x):
        variables = codec.init(jax.random.key(0), x)
        z = codec.apply(variables, x, method=codec.encode)
        return z, codec.apply(variables, z, method=codec.decode)

    z, back = jax.eval_shape(there_and_back, x)
    assert z.shape == (2, *latent)
    assert (back.shape, back.dtype) == (x.shape, jnp.float32)


@pytest.mark.parametrize("shape", [(8, 1), (4, 8, 3), (2, 4, 4, 3)])
@pytest.mark.slow
def test_patches_are_folded_before_and_unfolded_behind(shape):
    """It is the autoencoder of one place a patch, its entries in the channels."""
    squares = 2 ** min(len(shape) - 1, 2)
    fields = TINY | {"channel_mult": (1, 1)}
    codec = KL(**fields, data_channels=shape[-1], patch=2)
    plain = KL(**fields, data_channels=shape[-1] * squares)
    x = data(1, *shape)
    variables = random_variables(codec, x)
    assert codec.factor == 2 * plain.factor
    z = codec.apply(variables, x, method=codec.encode)
    np.testing.assert_array_equal(z, plain.apply(variables, patched(x, 2), method=plain.encode))
    back = plain.apply(variables, z, method=plain.decode)
    np.testing.assert_array_equal(
        codec.apply(variables, z, method=codec.decode), unpatched(back, 2)
    )


def test_one_level_divides_nothing():
    codec = KL(**TINY | {"channel_mult": (1,)})
    z = jax.eval_shape(codec.init_with_output, jax.random.key(0), data(1, 3, 5, 3))[0].latents.mean
    assert codec.factor == 1
    assert z.shape == (1, 3, 5, 2)


def test_z_is_the_mean_less_the_shift_times_the_scale_and_decoding_divides_first(kl):
    codec, variables = kl
    x = data(2, 4, 6, 3)
    moments = codec.apply(variables, x, method=codec.moments)
    z = through(codec, "encode", variables, x)
    np.testing.assert_allclose(z, (moments.mean - 0.25) * 0.5, rtol=1e-5, atol=1e-6)
    plain = codec.clone(scale=1.0, shift=0.0)
    want = through(plain, "decode", variables, moments.mean)
    np.testing.assert_allclose(through(codec, "decode", variables, z), want, rtol=1e-4, atol=1e-5)
    back, seen = codec.apply(variables, x)
    np.testing.assert_allclose(back, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(seen.mean, moments.mean)


def test_scale_and_shift_may_be_given_a_channel():
    each = KL(**TINY, scale=(0.5, 2.0), shift=(1.0, -1.0))
    latents = data(1, 2, 2, 2)
    z = each.scaled(latents)
    for i, (scale, shift) in enumerate(((0.5, 1.0), (2.0, -1.0))):
        one = KL(**TINY, scale=scale, shift=shift)
        np.testing.assert_allclose(z[..., i], one.scaled(latents)[..., i], rtol=1e-6)
    np.testing.assert_allclose(each.unscaled(z), latents, rtol=1e-5, atol=1e-6)


def test_a_sample_is_normal_about_the_mean_and_an_examples_own():
    codec = KL(scale=0.5, shift=1.0)
    moments = Moments(jnp.full((2, 50, 50, 4), 3.0), jnp.full((2, 50, 50, 4), 2 * np.log(0.1)))
    z = codec.sample(moments, jax.random.key(1))
    eps = np.asarray((codec.unscaled(z) - 3.0) / 0.1)
    assert stats.kstest(eps.ravel(), "norm").pvalue > 1e-3
    np.testing.assert_allclose(z.mean(), (3.0 - 1.0) * 0.5, atol=3e-3)
    keys = jax.random.split(jax.random.key(2), 2)
    first = Moments(moments.mean[:1], moments.logvar[:1])
    given = moments.sample(keys)
    np.testing.assert_array_equal(given[:1], first.sample(keys[:1]))
    np.testing.assert_array_equal(
        moments.sample(jax.random.key(3))[:1], first.sample(jax.random.key(3))
    )
    assert np.abs(eps[0] - eps[1]).max() > 1.0


def test_the_divergence_is_summed_over_an_examples_entries():
    """Against its definition, the expectation of log q - log p, by quadrature."""
    mean, logvar = RNG.normal(size=(2, 3, 2)), RNG.normal(size=(2, 3, 2))
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    std = np.exp(logvar / 2)
    x = mean[..., None] + std[..., None] * nodes
    q = stats.norm.logpdf(x, mean[..., None], std[..., None])
    integrals = ((q - stats.norm.logpdf(x)) * weights).sum(-1) / weights.sum()
    moments = Moments(jnp.asarray(mean, jnp.float32), jnp.asarray(logvar, jnp.float32))
    np.testing.assert_allclose(moments.kl(), integrals.sum((1, 2)), rtol=1e-5)
    twice = Moments(*(jnp.concatenate([part, part], axis=1) for part in moments))
    np.testing.assert_allclose(twice.kl(), 2 * moments.kl(), rtol=1e-6)
    batch = Moments(*(jnp.concatenate([part, part]) for part in moments))
    np.testing.assert_allclose(batch.kl(), np.tile(moments.kl(), 2), rtol=1e-6)


def test_the_variance_of_z_is_that_of_the_mean_and_the_mean_of_the_variance():
    mean, logvar = data(4, 32, 32, 4), jnp.full((4, 32, 32, 4), np.log(3.0), jnp.float32)
    moments = Moments(2.0 * mean + 5.0, logvar)
    want = np.asarray(moments.sample(jax.random.key(0)), np.float64).var()
    np.testing.assert_allclose(moments.variance(), want, rtol=0.05)
    assert abs(moments.variance() - jnp.var(moments.mean)) > 2.0
    z = KL(scale=float(moments.variance()) ** -0.5).sample(moments, jax.random.key(1))
    np.testing.assert_allclose(np.std(z), 1.0, atol=0.02)


def test_the_log_variance_is_kept_within_its_bounds():
    moments = Moments.of(jnp.asarray([[1.0, 2.0, -100.0, 100.0]]))
    np.testing.assert_array_equal(moments.mean, [[1.0, 2.0]])
    np.testing.assert_array_equal(moments.logvar, [[-30.0, 20.0]])
    assert np.isfinite(moments.kl()).all()


def test_a_vq_z_is_before_quantisation_and_decoding_quantises(vq):
    codec, variables = vq
    x = data(2, 4, 6, 3)
    z = through(codec, "encode", variables, x)
    codebook = np.asarray(variables["params"]["codebook"], np.float64)
    apart = np.square(np.asarray(z, np.float64)[..., None, :] - codebook).sum(-1)
    want = apart.argmin(-1)
    assert len(np.unique(want)) > 1
    codes = codec.apply(variables, x, method=codec.codes)
    np.testing.assert_array_equal(codes, want)
    assert np.abs(z - codebook[want]).max() > 0.01
    back = through(codec, "decode", variables, z)
    again = through(codec, "decode", variables, jnp.asarray(codebook[want], jnp.float32))
    np.testing.assert_allclose(back, again, rtol=1e-4, atol=1e-4)
    from_codes = codec.apply(variables, codes, method=codec.from_codes)
    np.testing.assert_allclose(back, from_codes, rtol=1e-4, atol=1e-4)


def test_bfloat16_gives_float32_close_to_float32(kl):
    codec, variables = kl
    x = data(1, 4, 4, 3)
    got, moments = codec.clone(dtype="bfloat16").apply(variables, x)
    want, _ = codec.apply(variables, x)
    assert got.dtype == moments.mean.dtype == moments.logvar.dtype == jnp.float32
    assert 0 < np.abs(got - want).max() < 0.2 * np.abs(want).max()


def test_remat_changes_neither_names_nor_gradients(kl):
    codec, variables = kl
    x = data(1, 4, 4, 3)

    def gradient(codec):
        return jax.jit(jax.grad(lambda v: jnp.square(codec.apply(v, x).x).sum()))(variables)

    plain, again = gradient(codec), gradient(codec.clone(remat="blocks"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), plain, again)


def test_dropout_is_for_training_alone(kl):
    codec, variables = kl
    codec, x = codec.clone(dropout=0.5), data(1, 4, 4, 3)
    still = codec.apply(variables, x).x
    np.testing.assert_array_equal(still, codec.clone(dropout=0.0).apply(variables, x).x)
    rngs = {"dropout": jax.random.key(0)}
    assert np.abs(codec.apply(variables, x, train=True, rngs=rngs).x - still).max() > 1e-3


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((517, 520, 3), "height and width by 8 .* not 517×520, but 512×520 or 520×520$"),
        ((5, 16, 3), "not 5×16, but 8×16$"),
        ((7, 24, 30, 3), "not 24×30, but 24×24 or 24×32$"),
        ((100, 3), "divides the length by 8 .* not 100, but 96 or 104$"),
        ((16, 16, 1), r"with 3 channels; got \(16, 16, 1\)$"),
        ((16,), r"takes \(length, channels\), .* got \(16,\)$"),
    ],
)
def test_sizes_that_cannot_be_coded_name_the_nearest_that_can(shape, message):
    with pytest.raises(ValueError, match=message):
        KL().check(shape)
    with pytest.raises(ValueError, match=message):
        VQ().check(shape)


def test_a_size_that_cannot_be_coded_is_refused_where_data_are_encoded(kl, vq):
    for codec, variables in (kl, vq):
        with pytest.raises(ValueError, match="not 4×5, but 4×4 or 4×6"):
            through(codec, "encode", variables, data(1, 4, 5, 3))
        with pytest.raises(ValueError, match="not 4×5, but 4×4 or 4×6"):
            codec.shapes((4, 5, 3))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scale": 0.0}, "scale must be a positive number"),
        ({"scale": (1.0, 2.0)}, r"scale must be one number or 4, one a channel; got \(1.0, 2.0\)"),
        ({"shift": float("nan")}, "shift must be a finite number"),
        ({"latent_channels": 0}, "latent_channels must be a whole number from 1"),
        ({"data_channels": 0}, "data_channels must be a whole number from 1"),
        ({"attention_factors": (3,)}, r"attention_factors must be some of .* 1, 2, 4, 8; got \(3"),
        ({"channel_mult": ()}, "channel_mult must be numbers"),
        ({"groups": 0}, "groups must be a whole number from 1"),
        ({"window": 2}, "window must be odd, got 2"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\)"),
        ({"dtype": "int8"}, "dtype must be one of"),
        ({"remat": "all"}, "remat must be one of none, products, blocks"),
    ],
)
def test_fields_out_of_their_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        KL(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"entries": 0}, "entries must be a whole number from 1"),
        ({"code_channels": 0}, "code_channels must be a whole number from 1"),
        ({"beta": -1.0}, "beta must be a finite number of at least 0"),
    ],
)
def test_fields_of_a_codebook_out_of_their_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        VQ(**fields)
