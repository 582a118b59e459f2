"""The three fronts: equal to each other and to a plain loop, whatever the batch, compiled once."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

import cfg_jax
from cfg_jax import guidance, mixtures, process, schedules, solvers
from cfg_jax.sampling import grids

SHAPE, STEPS, NULL = (4, 3), 6, 5
SCHEDULE = schedules.Cosine()
LABELS = jnp.arange(10) % NULL
KEY = jax.random.key(7)
CENTRES = jnp.linspace(-1.0, 1.0, NULL + 1)


def gaussian(spread, z, logsnr, cond):
    """The exact ε for x ~ N(centre(label), spread²): a denoiser that keeps samples bounded."""
    lam = jnp.asarray(logsnr)
    lam = lam.reshape(lam.shape + (1,) * (z.ndim - lam.ndim)) if lam.ndim else lam
    alpha, sigma2 = jnp.sqrt(jax.nn.sigmoid(lam)), jax.nn.sigmoid(-lam)
    centre = CENTRES[cond].reshape(-1, 1, 1)
    return jnp.sqrt(sigma2) * (z - alpha * centre) / (alpha**2 * spread**2 + sigma2)


DENOISER = jax.tree_util.Partial(gaussian, 0.3)
GUIDED = {
    "w a number": guidance.classifier_free(DENOISER, w=0.5, null=NULL),
    "w an example": guidance.classifier_free(DENOISER, w=np.linspace(0, 2, 10), null=NULL),
    "negative": guidance.negative(DENOISER, w=0.5, cond=LABELS[::-1]),
}
PAPER = solvers.Ancestral(v=0.3)
SETTINGS = {
    "shape": SHAPE,
    "schedule": SCHEDULE,
    "solver": PAPER,
    "grid": grids.UniformU(),
    "steps": STEPS,
}


def mesh(*sizes):
    names = ("data", "model")[: len(sizes)]
    return jax.make_mesh(sizes, names, axis_types=(AxisType.Auto,) * len(sizes))


def plain_loop(denoiser, v):
    """Algorithm 2, in NumPy's loop, with the noise that is promised to every example."""
    levels = SCHEDULE.grid(STEPS)
    keys = [jax.random.fold_in(KEY, i) for i in range(len(LABELS))]

    def noise(fold):
        return jnp.stack([jax.random.normal(jax.random.fold_in(k, fold), SHAPE) for k in keys])

    z = noise(0)
    for t in range(STEPS):
        e = denoiser(z, levels[t], LABELS)
        signal, sigma = (np.sqrt(1 / (1 + np.exp(s * levels[t]))) for s in (-1, 1))
        x = (z - sigma * e) / signal
        if t == STEPS - 1:
            return x
        mean, _ = process.posterior(z, x, logsnr=levels[t], logsnr_next=levels[t + 1])
        variance = process.reverse_variance(logsnr=levels[t], logsnr_next=levels[t + 1], v=v)
        z = mean + jnp.sqrt(variance) * noise(t + 1)


@pytest.fixture(scope="module")
def reference():
    return {
        name: np.asarray(cfg_jax.sample(guided, KEY, LABELS, **SETTINGS))
        for name, guided in GUIDED.items()
    }


def test_sample_is_algorithm_2(reference):
    np.testing.assert_allclose(
        reference["w a number"], plain_loop(GUIDED["w a number"], v=0.3), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("name", GUIDED)
def test_pmap_gives_the_same_images(reference, name):
    assert jax.local_device_count() == 8
    got = cfg_jax.pmap_sample(GUIDED[name], KEY, LABELS, **SETTINGS)
    np.testing.assert_allclose(got, reference[name], atol=1e-5)


@pytest.mark.parametrize("sizes", [(8,), (4, 2), (1,)])
@pytest.mark.parametrize("name", GUIDED)
def test_a_mesh_gives_the_same_images(reference, name, sizes):
    got = cfg_jax.sharded_sample(GUIDED[name], KEY, LABELS, mesh=mesh(*sizes), **SETTINGS)
    np.testing.assert_allclose(got, reference[name], atol=1e-5)


def test_a_mesh_splits_the_batch():
    labels = jnp.zeros(16, jnp.int32)
    got = cfg_jax.sharded_sample(GUIDED["w a number"], KEY, labels, mesh=mesh(4, 2), **SETTINGS)
    assert {shard.data.shape[0] for shard in got.addressable_shards} == {2}


@pytest.mark.parametrize(("first", "count"), [(0, 3), (4, 1), (5, 5)])
def test_an_image_does_not_depend_on_its_batch_or_place(reference, first, count):
    got = cfg_jax.sample(
        GUIDED["w a number"], KEY, LABELS[first : first + count], offset=first, **SETTINGS
    )
    np.testing.assert_allclose(got, reference["w a number"][first : first + count], atol=1e-5)


def test_given_noise_is_where_it_starts():
    keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(10))
    z = jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(k, 0), SHAPE))(keys)
    drawn, same, other = (
        cfg_jax.sample(DENOISER, KEY, LABELS, z=start, **{**SETTINGS, "solver": solvers.DDIM()})
        for start in (None, z, z + 1)
    )
    np.testing.assert_allclose(same, drawn, atol=1e-6)
    assert np.abs(other - same).max() > 1e-2


def test_nothing_compiles_again_when_only_numbers_change():
    traced = chex.assert_max_traces(n=1)(gaussian)

    def run(spread, w, key, labels, v):
        network = jax.tree_util.Partial(traced, spread)
        guided = guidance.classifier_free(network, w=w, null=NULL)
        solver = solvers.Ancestral(v=v)
        return cfg_jax.sample(guided, key, labels, **{**SETTINGS, "solver": solver})

    first = run(0.3, 0.5, KEY, LABELS, 0.3)
    for change in [
        (jnp.float32(0.4), 0.5, KEY, LABELS, 0.3),
        (0.3, 1, KEY, LABELS, 0.3),
        (0.3, np.float64(2.0), KEY, LABELS, 0.3),
        (0.3, 0.5, jax.random.key(8), LABELS, 0.3),
        (0.3, 0.5, KEY, (LABELS + 1) % NULL, 0.3),
        (0.3, 0.5, KEY, LABELS, 1),
    ]:
        assert np.abs(run(*change) - first).max() > 1e-3


@pytest.mark.parametrize(
    ("make", "values"),
    [
        (lambda knob: solvers.DDIM(eta=knob), (0.0, 0.5, 1)),
        (lambda knob: solvers.DPMSolverPP(order=3, eta=knob), (0.0, 0.5, 1)),
        (lambda knob: solvers.Heun(gamma=knob), (0.0, 0.2, np.float32(0.3))),
    ],
)
def test_knobs_do_not_compile_again(make, values):
    traces = []

    def counted(*arguments):
        traces.append(1)
        return gaussian(*arguments)

    network = jax.tree_util.Partial(counted, 0.3)
    images = [
        cfg_jax.sample(network, KEY, LABELS, **{**SETTINGS, "solver": make(value)})
        for value in values
    ]
    assert np.abs(images[0] - images[1]).max() > 1e-3
    assert np.abs(images[1] - images[2]).max() > 1e-3
    first = len(traces)
    cfg_jax.sample(network, KEY, LABELS, **{**SETTINGS, "solver": make(0.25)})
    assert len(traces) == first <= 2  # Heun's two calls


def test_solvers_of_the_same_fields_are_not_taken_for_each_other():
    """Euler and Heun: jaxlib 0.10 takes their pytree structures for equal."""
    points = mixtures.gaussian_mixture([[[-1.0]], [[1.0]]], 0.5)
    walk = {"shape": (1,), "schedule": schedules.Cosine(), "batch": 4, "steps": 5}
    drawn = {}
    for solver in (solvers.Euler(), solvers.Heun(), solvers.DDIM()):
        drawn[type(solver)] = cfg_jax.sample(points, jax.random.key(0), solver=solver, **walk)
    np.testing.assert_allclose(drawn[solvers.Euler], drawn[solvers.DDIM], atol=1e-4)
    assert np.abs(drawn[solvers.Heun] - drawn[solvers.Euler]).max() > 1e-2


@pytest.mark.parametrize(
    "solver", [PAPER, solvers.Heun(gamma=0.1), solvers.UniPC(order=3)], ids=str
)
def test_the_compiled_program_does_not_grow_with_the_steps(solver):
    def size(steps):
        run = jax.jit(
            lambda key: cfg_jax.sample(
                DENOISER, key, LABELS, shape=SHAPE, schedule=SCHEDULE, solver=solver, steps=steps
            )
        )
        return run.lower(KEY).as_text().count("\n")

    assert size(5) == size(500)


@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"solver": solvers.DPMSolverPP(order=2, eta=1.0), "grid": grids.Karras()},
    ],
    ids=str,
)
def test_the_fronts_agree_for_every_solver_and_grid(chosen):
    settings = {"shape": SHAPE, "schedule": schedules.Cosine(logsnr_min=-9.0), "steps": STEPS}
    guided = GUIDED["w an example"]
    want = cfg_jax.sample(guided, KEY, LABELS, **settings, **chosen)
    for got in (
        cfg_jax.pmap_sample(guided, KEY, LABELS, **settings, **chosen),
        cfg_jax.sharded_sample(guided, KEY, LABELS, mesh=mesh(4, 2), **settings, **chosen),
    ):
        np.testing.assert_allclose(got, want, atol=2e-5)


def test_the_default_is_the_named_solver_on_the_named_grid():
    settings = {"shape": SHAPE, "schedule": SCHEDULE}
    for steps, order in [(6, 2), (20, 3)]:
        np.testing.assert_array_equal(
            cfg_jax.sample(DENOISER, KEY, LABELS, steps=steps, **settings),
            cfg_jax.sample(
                DENOISER,
                KEY,
                LABELS,
                solver=solvers.UniPC(order=order),
                grid=grids.Secant(),
                steps=steps,
                **settings,
            ),
        )


def test_the_default_can_be_differentiated():
    """Through the first steps too, where the polynomials are of lower degree."""

    def last(w):
        guided = guidance.classifier_free(DENOISER, w=w, null=NULL)
        return cfg_jax.sample(guided, KEY, LABELS, shape=SHAPE, schedule=SCHEDULE, steps=16).sum()

    near = (last(0.51) - last(0.49)) / 0.02
    assert float(jax.grad(last)(0.5)) == pytest.approx(float(near), rel=1e-2)


def test_sample_works_under_jit_vmap_and_grad(reference):
    def under(key, w):
        guided = guidance.classifier_free(DENOISER, w=w, null=NULL)
        return cfg_jax.sample(guided, key, LABELS, **SETTINGS)

    np.testing.assert_allclose(jax.jit(under)(KEY, 0.5), reference["w a number"], atol=1e-5)
    both = jax.vmap(under, (None, 0))(KEY, jnp.array([0.5, 1.0]))
    np.testing.assert_allclose(both[0], reference["w a number"], atol=1e-5)
    slope = jax.grad(lambda w: under(KEY, w).sum())(0.5)
    near = (under(KEY, 0.51).sum() - under(KEY, 0.49).sum()) / 0.02
    assert float(slope) == pytest.approx(float(near), rel=1e-2)


def test_an_unconditional_plain_function():
    got = cfg_jax.sample(lambda z, logsnr, cond: z, KEY, batch=3, **SETTINGS)
    assert got.shape == (3, *SHAPE)
    assert np.all(np.isfinite(got))


def test_exact_denoisers_sample_their_distribution():
    """x ~ N(centre, spread²): mean and spread of 2,000 × 12 values."""
    labels = jnp.full(2000, 1)
    got = np.asarray(cfg_jax.sample(DENOISER, KEY, labels, **{**SETTINGS, "steps": 200}))
    assert got.mean() == pytest.approx(float(CENTRES[1]), abs=4 * 0.3 / np.sqrt(got.size))
    assert got.std() == pytest.approx(0.3, rel=0.03)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be a whole number of at least 1"),
        ({"batch": 3}, "disagree on the number of examples"),
        ({"z": jnp.zeros((10, 2))}, r"z must have shape \(10, 4, 3\)"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        cfg_jax.sample(DENOISER, KEY, LABELS, **{**SETTINGS, **change})


def test_no_batch_at_all_is_refused():
    with pytest.raises(ValueError, match="needs batch"):
        cfg_jax.sample(DENOISER, KEY, **SETTINGS)


def test_a_strength_for_another_batch_is_refused():
    guided = guidance.classifier_free(DENOISER, w=np.ones(4), null=NULL)
    with pytest.raises(ValueError, match="is for 4"):
        cfg_jax.sample(guided, KEY, LABELS, **SETTINGS)
