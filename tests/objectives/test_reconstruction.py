"""What trains autoencoders: its terms and their weights, who learns from what, dead codes."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import random_variables

from cfg_jax import schedules
from cfg_jax.codecs import KL, VQ, Coded, Moments
from cfg_jax.networks import Coding, PatchDiscriminator
from cfg_jax.objectives import Reconstruction
from cfg_jax.objectives.reconstruction import Examples, at, put
from cfg_jax.parts import Setting
from cfg_jax.training.step import Asker

RNG = np.random.default_rng(0)
TINY = {"channels": 4, "channel_mult": (1, 2), "blocks": 1, "latent_channels": 2}
X = jnp.asarray(RNG.uniform(-1, 1, (4, 8, 8, 3)), jnp.float32)
KERNEL = Coding(codec=KL(**TINY)).last_kernel
SETTING = Setting(schedules.Cosine(), {}, {}, {})


def drawn(x, judged=True):
    keys = jax.random.split(jax.random.key(5), len(x))
    return Examples(x, keys, jnp.full(len(x), judged))


def asker(network, variables):
    return Asker(network, variables, (), {}, jax.random.key(0))


class Fixed(NamedTuple):
    """A network that gives back what it is told to."""

    back: jax.Array
    latents: Moments
    variables: dict
    network: Coding

    def apply(self, way, *args, variables=None):
        kernel = at(variables, KERNEL)
        return Coded(self.back + 0.0 * kernel.sum(), self.latents)


def fixed(x, s=0.0):
    rng = np.random.default_rng(1)
    back = jnp.asarray(x + rng.normal(size=x.shape) * 0.3, jnp.float32)
    mean, logvar = jnp.asarray(rng.normal(size=(2, len(x), 2, 2, 3)), jnp.float32)
    network = Coding(codec=KL(**TINY))
    variables = network.init(jax.random.key(0), x[:1])
    variables = put(variables, ("params", "logvar"), jnp.float32(s))
    return Fixed(back, Moments(mean, logvar), variables, network)


@pytest.mark.parametrize("error", ["l1", "l2"])
def test_its_terms_are_those_of_the_paper_over_the_number_of_entries(error):
    """Against Rombach et al.'s sums in float64, divided by D."""
    s, x = 0.7, X
    ask = fixed(x, s)
    objective = Reconstruction(error=error, learned_logvar=True, kl_weight=0.3)
    found = objective.losses(ask, drawn(x))
    away = np.asarray(ask.back, np.float64) - np.asarray(x, np.float64)
    nll = (np.abs(away) if error == "l1" else away**2) / np.exp(s) + s
    mean, logvar = (np.asarray(m, np.float64) for m in ask.latents)
    kl = 0.5 * (mean**2 + np.exp(logvar) - 1 - logvar).sum((1, 2, 3))
    sums = nll.sum((1, 2, 3)) + 0.3 * kl
    np.testing.assert_allclose(found.each, sums / x[0].size, rtol=1e-5)
    np.testing.assert_allclose(found.measured["kl"], kl / x[0].size, rtol=1e-5)
    psnr = 10 * np.log10(4 / (away**2).mean((1, 2, 3)))
    np.testing.assert_allclose(found.measured["psnr"], psnr, rtol=1e-5)


def test_no_term_changes_its_weight_with_the_size_of_the_data():
    """All sides twice as long, of data and of latents: every example's loss stays."""

    def twice(a):
        return jnp.repeat(jnp.repeat(a, 2, 1), 2, 2)

    small = fixed(X)
    large = small._replace(back=twice(small.back), latents=jax.tree.map(twice, small.latents))
    objective = Reconstruction(kl_weight=0.3, perceptual=lambda x, y: jnp.abs(x - y).max((1, 2, 3)))
    losses = [objective.losses(ask, drawn(x)).each for ask, x in ((small, X), (large, twice(X)))]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_the_learned_log_variance_ends_at_the_logarithm_of_the_error():
    ask = fixed(X)
    error = float(Reconstruction().losses(ask, drawn(X)).measured["error"].mean())

    def loss(s):
        variables = put(ask.variables, ("params", "logvar"), s)
        objective = Reconstruction(learned_logvar=True)
        return objective.losses(ask._replace(variables=variables), drawn(X)).each.mean()

    slope = jax.grad(loss)
    assert abs(float(slope(jnp.log(error)))) < 1e-6
    assert float(slope(jnp.log(error) + 0.1)) > 0 > float(slope(jnp.log(error) - 0.1))


@pytest.fixture(scope="module")
def judged():
    network = Coding(codec=KL(**TINY), discriminator=PatchDiscriminator(channels=4, layers=1))
    return network, random_variables(network, X[:1])


def gradient(network, variables, objective, examples):
    def loss(variables):
        found = objective.losses(asker(network, variables), examples)
        return found.each.mean(), found.measured

    (_, measured), slope = jax.value_and_grad(loss, has_aux=True)(variables)
    return slope["params"], measured


@pytest.mark.slow
def test_the_two_players_learn_each_from_its_own_loss(judged):
    """The discriminator from the hinge alone, whatever counts; the codec never from the hinge."""
    network, variables = judged
    objective = Reconstruction(judged_weight=0.7)
    both, measured = gradient(network, variables, objective, drawn(X))
    before, _ = gradient(network, variables, objective, drawn(X, judged=False))
    alone, _ = gradient(network.clone(discriminator=None), variables, objective, drawn(X))
    same = np.testing.assert_array_equal
    jax.tree.map(same, both["discriminator"], before["discriminator"])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7),
        before["codec"],
        alone["codec"],
    )
    keys = drawn(X).keys
    back = network.apply(variables, X, keys, method="coded").x

    def hinge(inner):
        judge = put(variables, ("params", "discriminator"), inner)
        real, made = (network.apply(judge, x, method="judged") for x in (X, back))
        return 0.5 * (jnp.maximum(0, 1 - real) + jnp.maximum(0, 1 + made)).mean()

    want = jax.grad(hinge)(variables["params"]["discriminator"])
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)  # noqa: E731
    jax.tree.map(close, both["discriminator"], want)
    assert abs(float(measured["discriminator"].mean()) - float(hinge(judge_of(variables)))) < 1e-6


def judge_of(variables):
    return variables["params"]["discriminator"]


def adaptive(network, variables):
    """The weight in its own words: two norms at the last kernel, each by a gradient of its own."""
    keys = drawn(X).keys

    def back(kernel):
        return network.apply(put(variables, network.last_kernel, kernel), X, keys, method="coded").x

    def error(kernel):
        return jnp.abs(back(kernel) - X).mean()

    def fooled(kernel):
        return -network.apply(variables, back(kernel), method="judged").mean()

    kernel = at(variables, network.last_kernel)
    norms = [float(jnp.linalg.norm(jax.grad(f)(kernel))) for f in (error, fooled)]
    return min(norms[0] / (norms[1] + 1e-4), 1e4 / X[0].size)


@pytest.mark.slow
def test_the_adaptive_weight_is_the_ratio_of_two_gradients(judged):
    network, variables = judged
    _, measured = gradient(network, variables, Reconstruction(judged_weight=0.7), drawn(X))
    want = 0.7 * adaptive(network, variables)
    np.testing.assert_allclose(measured["judged_weight"], want, rtol=1e-3)


@pytest.mark.slow
def test_a_discriminator_ten_times_as_loud_teaches_as_much(judged):
    network, variables = judged
    name = "layer_2"
    layer = variables["params"]["discriminator"][name]
    louder = put(
        variables, ("params", "discriminator", name), jax.tree.map(lambda a: 10.0 * a, layer)
    )
    objective = Reconstruction()
    alone, _ = gradient(network.clone(discriminator=None), variables, objective, drawn(X))
    taught = [
        jax.tree.map(
            jnp.subtract, gradient(network, v, objective, drawn(X))[0]["codec"], alone["codec"]
        )
        for v in (variables, louder)
    ]
    scale = max(float(jnp.abs(a).max()) for a in jax.tree.leaves(taught[0]))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0.02, atol=0.02 * scale), *taught
    )


@pytest.mark.parametrize(("step", "counts"), [(6, False), (7, True), (8, True)])
def test_the_judgement_counts_from_its_step_on(step, counts):
    objective = Reconstruction(judged_from=7)
    found = objective.draw(jax.random.key(0), X, {}, SETTING._replace(step=jnp.int32(step)))
    assert found.judged.tolist() == [counts] * len(X)


def test_example_i_draws_by_its_number_alone():
    objective = Reconstruction()
    both = [objective.draw(jax.random.key(0), X[:n], {}, SETTING).keys for n in (2, 4)]
    assert bool((both[0] == both[1][:2]).all())


@pytest.fixture(scope="module")
def quantised():
    network = Coding(codec=VQ(**TINY, entries=6))
    return network, random_variables(network, X[:1])


def test_dead_codes_come_to_life_and_living_ones_stay(quantised):
    network, variables = quantised
    book = jnp.asarray(RNG.normal(size=(6, 2)) + np.array([0.0, 90.0]), jnp.float32)
    book = book.at[:2].set(0.0)
    path = ("params", "codec", "codebook")
    variables = put(variables, path, book)
    use = jnp.array([2.0, 2.0, 0.02, 1.0, 0.001, 1.0])
    variables = put(variables, ("usage", "shares"), use)
    objective = Reconstruction(dead=0.03)
    found = objective.losses(asker(network, variables), drawn(X))
    after, logged = objective.after(variables, dict(found.measured), jax.random.key(3))
    new = at(after, path)
    assert [i for i in range(6) if bool((new[i] != book[i]).any())] == [2, 4]
    vectors = np.asarray(found.measured["vectors"]).reshape(-1, 2)
    for i in (2, 4):
        assert np.abs(vectors - np.asarray(new[i])).sum(1).min() == 0
    here = np.bincount(np.asarray(found.measured["numbers"]).ravel(), minlength=6)
    kept = 0.99 * np.asarray(use) + 0.01 * 6 * here / here.sum()
    kept[[2, 4]] = 1.0
    np.testing.assert_allclose(at(after, ("usage", "shares")), kept, rtol=1e-5)
    assert logged["used"] == pytest.approx(4 / 6)
    assert set(logged) == {"error", "psnr", "codes", "perplexity", "used"}


def test_nothing_is_revived_where_that_is_off(quantised):
    network, variables = quantised
    variables = put(variables, ("usage", "shares"), jnp.zeros(6))
    objective = Reconstruction(dead=0.0)
    found = objective.losses(asker(network, variables), drawn(X))
    after, _ = objective.after(variables, dict(found.measured), jax.random.key(3))
    path = ("params", "codec", "codebook")
    np.testing.assert_array_equal(at(after, path), at(variables, path))


def test_an_autoencoder_without_a_codebook_is_left_alone():
    ask = fixed(X)
    found = Reconstruction().losses(ask, drawn(X))
    after, logged = Reconstruction().after(ask.variables, found.measured, jax.random.key(0))
    assert after is ask.variables
    assert set(logged) == {"error", "psnr", "kl"}


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"error": "l3"}, "error must be one of l1, l2; got 'l3'"),
        ({"kl_weight": -1.0}, "kl_weight must"),
        ({"dead": 1.0}, "dead must"),
        ({"judged_from": -1}, "judged_from must"),
    ],
)
def test_values_out_of_range_are_refused(fields, line):
    with pytest.raises(ValueError, match=line):
        Reconstruction(**fields)


def test_what_its_distance_reads_is_read_before_training():
    @dataclasses.dataclass(frozen=True)
    class Distance:
        weights: float = 0.0

        def ready(self):
            return Distance(weights=3.0)

        def __call__(self, x, y):
            return jnp.abs(x - y).mean((1, 2, 3))

    assert Reconstruction(perceptual=Distance()).ready().perceptual.weights == 3.0
    assert Reconstruction().ready().perceptual is None


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "codec must be an autoencoder, such as KL"),
        ({"codec": KL(**TINY), "discriminator": 3}, "discriminator must be a Flax module"),
    ],
)
def test_a_coding_is_of_an_autoencoder(fields, line):
    with pytest.raises(ValueError, match=line):
        Coding(**fields)


def test_patches_that_do_not_fit_are_told():
    net = PatchDiscriminator(channels=4, layers=3)
    with pytest.raises(ValueError, match="needs sides of at least 24, got 8×8"):
        net.init(jax.random.key(0), X)


def test_the_discriminator_is_that_of_float64():
    """In one dimension, layer by layer."""
    net = PatchDiscriminator(channels=2, layers=2)
    x = RNG.normal(size=(2, 16, 3))
    variables = random_variables(net, jnp.asarray(x, jnp.float32))
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    h = x
    for number in range(4):
        layer, stride = params[f"layer_{number}"], 2 if number < 2 else 1
        wide = np.pad(h, ((0, 0), (1, 1), (0, 0)))
        starts = range(0, wide.shape[1] - 3, stride)
        windows = np.stack([wide[:, start : start + 4] for start in starts], 1)
        h = np.einsum("npkc,kcf->npf", windows, layer["kernel"]) + layer["bias"]
        if number in (1, 2):  # as many groups as channels: there are fewer than 32
            away = h - h.mean(1, keepdims=True)
            h = away / np.sqrt((away**2).mean(1, keepdims=True) + 1e-5)
            norm = params[f"norm_{number}"]
            h = h * norm["scale"] + norm["bias"]
        h = h if number == 3 else np.where(h > 0, h, 0.2 * h)
    got = net.apply(variables, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(got, h[..., 0], rtol=1e-4, atol=1e-4)
