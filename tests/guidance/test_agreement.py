"""Guidance by embeddings of z_λ, and by those of random cut-outs of x̂."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax import denoiser, guidance, sample, schedules, sharded_sample
from cfg_jax.diffusion.condition import PerExample
from cfg_jax.diffusion.noise import Stream, stream
from cfg_jax.diffusion.precision import enable_x64
from cfg_jax.guidance.cutouts import CutoutLoss
from cfg_jax.runtime import mesh as meshes

RNG = np.random.default_rng(0)
Z = jnp.asarray(RNG.normal(size=(2, 6, 6, 2)), jnp.float32)
TEXTS = jnp.asarray(RNG.normal(size=(2, 3)), jnp.float32)
MATRIX = jnp.asarray(RNG.normal(size=(2, 3)), jnp.float32)
KEY = jax.random.key(3)


def eps_of(z, logsnr, cond):
    return jnp.tanh(0.7 * z + 0.1)


def noisy(z, logsnr):
    return jnp.tanh(jnp.mean(z, (1, 2)) @ MATRIX)


def clean(pictures):
    return jnp.tanh(jnp.mean(pictures**2, (1, 2)) @ MATRIX)


NETWORK, NOISY, CLEAN = map(jax.tree_util.Partial, (eps_of, noisy, clean))


def cut(w=1.0, text=TEXTS, **fields):
    fields = {"key": KEY, "size": 3, "count": 4} | fields
    return guidance.cutouts(NETWORK, CLEAN, text=text, w=w, **fields)


def test_a_cut_out_is_a_square_brought_to_size_by_the_mean_over_areas():
    """Sides and places by hand in float64; all sizes and every corner occur."""
    picture = np.asarray(RNG.normal(size=(8, 6, 2)), np.float32)
    sides = set()
    for number in range(60):
        key = jax.random.key(number)
        u, down, right = np.asarray(jax.random.uniform(key, (3,)), np.float64)
        side = int(u**0.5 * (6 - 2) + 2)
        top, left = int(down * (8 - side + 1)), int(right * (6 - side + 1))
        square = picture[top : top + side, left : left + side].astype(np.float64)
        fine = np.repeat(np.repeat(square, 2, 0), 2, 1)  # each half of it is whole pixels
        want = fine.reshape(2, side, 2, side, 2).mean((1, 3))
        got = guidance.cut_out(key, jnp.asarray(picture), size=2)
        np.testing.assert_allclose(got, want, atol=1e-5)
        sides.add(side)
    assert sides == {2, 3, 4, 5}


def test_a_large_power_makes_small_cut_outs_and_none_the_whole():
    ones = jnp.zeros((6, 6, 1)).at[2:4, 2:4].set(1.0)
    whole = guidance.cut_out(KEY, ones, size=6, power=0.5)
    np.testing.assert_allclose(whole, ones, atol=1e-6)
    np.testing.assert_allclose(
        guidance.cut_out(KEY, ones, size=3, power=0.0)[..., 0], np.diag([0.0, 1.0, 0.0]), atol=1e-6
    )
    means = [
        np.mean([guidance.cut_out(jax.random.key(i), ones, size=1, power=p) > 0 for i in range(99)])
        for p in (0.1, 8.0)
    ]
    assert means[0] > 2 * means[1]


@pytest.mark.parametrize("guided", ["noisy", "cut-outs"])
def test_the_direction_is_the_slope_of_the_similarity(guided):
    """Against finite differences in float64."""
    with enable_x64(True):
        z = jnp.asarray(Z, jnp.float64)
        lam, w = jnp.float64(0.5), 1.5
        direction = jnp.asarray(RNG.normal(size=Z.shape))
        made = guidance.agreement(NETWORK, NOISY, text=TEXTS, w=w) if guided == "noisy" else cut(w)

        def similarity(z):
            if guided == "noisy":
                return made.log_prob(z, lam, None)
            return -made.loss(denoiser.read(NETWORK, z, lam, None).x, z, lam, None)

        step = 1e-5
        slope = (similarity(z + step * direction) - similarity(z - step * direction)) / (2 * step)
        moved = made(z, lam, None).eps - NETWORK(z, lam, None)
        sigma = 1 / np.sqrt(1 + np.exp(0.5))
        got = (moved * direction).sum((1, 2, 3))
        np.testing.assert_allclose(got, -w * sigma * slope, rtol=1e-5)
        assert np.abs(slope).min() > 1e-3


def test_the_loss_is_the_mean_over_cut_outs_of_each_ones_own_key_and_text():
    loss = cut(offset=5).loss
    got = loss(Z, Z, 0.5, None)
    level = int(np.float32(0.5).view(np.uint32))
    for i in range(2):
        key = jax.random.fold_in(stream(KEY, Stream.CUTOUTS), 5 + i)
        keys = jax.random.split(jax.random.fold_in(key, level), 4)
        parts = [guidance.cut_out(k, Z[i], size=3) for k in keys]
        want = -np.mean([clean(part[None])[0] @ TEXTS[i] for part in parts])
        assert got[i] == pytest.approx(want, rel=1e-4)
    assert np.abs(loss(Z, Z, 0.6, None) - got).min() > 1e-5


@pytest.mark.slow
def test_it_is_the_sum_over_the_batch_not_the_mean():
    """An example is guided as much alone as among others."""
    for made, alone in [
        (cut(), cut(text=TEXTS[1:], offset=1)),
        (
            guidance.agreement(NETWORK, NOISY, text=TEXTS, w=1.0),
            guidance.agreement(NETWORK, NOISY, text=TEXTS[1], w=1.0),
        ),
    ]:
        both, one = made(Z, 0.5, None).eps, alone(Z[1:], 0.5, None).eps
        np.testing.assert_allclose(both[1:], one, rtol=1e-5, atol=1e-6)


def test_no_strength_is_the_network_to_the_last_bit():
    np.testing.assert_array_equal(cut(0.0)(Z, 0.5, None).eps, NETWORK(Z, 0.5, None))


def test_more_strength_is_more_similar():
    for made in (cut, lambda w: guidance.agreement(NETWORK, NOISY, text=TEXTS, w=w)):
        score = cut().loss
        near, far = (score(made(w)(Z, 0.5, None).x, Z, 0.5, None).sum() for w in (0.5, -0.5))
        assert near < far


def test_saturated_pixels_still_have_a_gradient():
    bright = jnp.full_like(Z, 3.0)
    fields = {
        name: getattr(cut().loss, name)
        for name in CutoutLoss.__dataclass_fields__
        if name != "image"
    }
    loss = CutoutLoss(image=lambda pictures: pictures.mean((1, 2)) @ MATRIX, **fields)
    assert np.abs(jax.grad(lambda x: loss(x, Z, 0.5, None).sum())(bright)).max() > 1e-4


def test_latents_are_decoded_first():
    decode = jax.tree_util.Partial(lambda scale, z: scale * z, jnp.float32(2.0))
    got = cut(decode=decode).loss(Z, Z, 0.5, None)
    np.testing.assert_allclose(got, cut().loss(2.0 * Z, Z, 0.5, None), rtol=1e-5)


@pytest.mark.parametrize("kind", ["noisy", "cut-outs"])
def test_another_text_key_and_strength_compile_nothing_again(kind):
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def guided(made):
        return made(Z, 0.5, None).eps

    found = []
    for number in range(2):
        text, w = TEXTS + number, 0.5 + number
        if kind == "noisy":
            made = guidance.agreement(NETWORK, NOISY, text=text, w=w)
        else:
            made = cut(w, text, key=jax.random.key(number))
        found.append(guided(made))
        np.testing.assert_allclose(found[-1], made(Z, 0.5, None).eps, rtol=1e-4, atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    "made",
    [cut(2.0), guidance.agreement(NETWORK, NOISY, text=TEXTS, w=2.0)],
    ids=["cut-outs", "noisy"],
)
def test_it_samples_alike_on_one_device_and_on_two(made):
    """Keys and texts go with their examples."""
    settings = {
        "shape": Z.shape[1:],
        "batch": 2,
        "schedule": schedules.Cosine(logsnr_min=-3.0, logsnr_max=3.0),
        "steps": 2,
    }
    one = sample(made, jax.random.key(0), None, **settings)
    mesh = meshes.device_mesh(1, jax.devices()[:2])
    two = sharded_sample(made, jax.random.key(0), None, mesh=mesh, **settings)
    np.testing.assert_allclose(two, one, atol=1e-5)
    assert np.abs(one - sample(NETWORK, jax.random.key(0), None, **settings)).max() > 1e-3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: guidance.agreement(NETWORK, NOISY, text=jnp.ones(()), w=1.0),
            "text must have shape",
        ),
        (
            lambda: guidance.agreement(NETWORK, NOISY, text=jnp.full(3, jnp.nan), w=1.0),
            "text must be finite",
        ),
        (
            lambda: guidance.agreement(NETWORK, NOISY, text=jnp.ones((3, 3)), w=1.0)(Z, 0.0, None),
            "text must be one or 2, one an example; got 3",
        ),
        (
            lambda: guidance.agreement(NETWORK, NOISY, text=jnp.ones(4), w=1.0)(Z, 0.0, None),
            "image must return a vector of 4 numbers an example",
        ),
        (lambda: cut(text=jnp.ones(3)), r"text must have shape \(batch, features\)"),
        (lambda: cut(text=jnp.ones((3, 3)))(Z, 0.0, None), "text must be 2, one an example; got 3"),
        (lambda: cut(size=0), "size must be"),
        (lambda: cut(count=0), "count must be"),
        (lambda: cut(power=-1.0), "power must"),
        (lambda: cut().loss(Z[..., 0], Z, 0.0, None), "cut-outs are of pictures"),
    ],
)
def test_refused_in_one_line(monkeypatch, make, message):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message) as refusal:
        make()
    assert "\n" not in str(refusal.value)


def test_keys_and_texts_are_split_with_the_batch():
    assert isinstance(cut().loss.keys, PerExample)
    assert isinstance(cut().loss.text, PerExample)
