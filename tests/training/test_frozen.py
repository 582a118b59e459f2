"""What is not trained stays as it was, to the last bit; all else moves."""

import hashlib
import shutil

import jax
import numpy as np
import pytest
from frozen_kinds import tiny_frozen

import cfg_jax
from cfg_jax.data import Digits
from cfg_jax.runtime import mesh as meshes
from cfg_jax.runtime.checkpoints import Checkpoints
from cfg_jax.training import loop
from cfg_jax.training.program import build
from cfg_jax.training.step import losses

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)
BATCH = {
    "x": RNG.integers(0, 256, (16, 8, 8, 1), dtype=np.uint8),
    "label": RNG.integers(0, 10, 16).astype(np.int32),
    "replaced": np.zeros(16, np.int32),
}


def hashes(tree):
    """One of every leaf."""
    return [
        hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest() for leaf in jax.tree.leaves(tree)
    ]


def program_of(config, count=1):
    facts = Digits().open("train").facts
    return build(config, facts, meshes.device_mesh(1, jax.devices()[:count]))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """20 steps at once; and where they were made."""
    config, workdir = tiny_frozen(), tmp_path_factory.mktemp("frozen") / "run"
    config.train.steps = config.train.checkpoint_every = 20
    loop.train(config, workdir)
    return config, workdir


def restored(config, workdir, step):
    with Checkpoints(workdir) as checkpoints:
        state = checkpoints.restore(step, program_of(config).state)
        return jax.device_get(state), checkpoints.restore_frozen()


def test_no_bit_of_it_changes_in_twenty_steps_nor_when_the_run_goes_on(whole, tmp_path):
    config, workdir = whole
    first = hashes(program_of(config).frozen._asdict())
    assert len(first) == 3
    state, kept = restored(config, workdir, 20)
    assert sorted(hashes(kept)) == sorted(first)
    halves = tiny_frozen()
    halves.train.checkpoint_every = 20
    for steps in (10, 20):
        halves.train.steps = steps
        loop.train(halves, tmp_path / "run")
        assert sorted(hashes(restored(halves, tmp_path / "run", steps)[1])) == sorted(first)
    jax.tree.map(np.testing.assert_array_equal, state, restored(halves, tmp_path / "run", 20)[0])


def test_a_loaded_run_reads_it_from_beside_the_checkpoints(whole):
    config, workdir = whole
    run = cfg_jax.load(workdir)
    frozen = program_of(config).frozen
    assert hashes(run.codec_params) == hashes(frozen.codec)
    assert hashes(run.condition_params) == hashes(frozen.condition)
    x = RNG.uniform(-1, 1, (2, 8, 8, 1)).astype(np.float32)
    turn = np.asarray(frozen.codec["params"]["turn"], np.float64)
    np.testing.assert_allclose(run.encode(x), np.einsum("bhwc,wv->bhvc", x, turn), atol=1e-5)
    np.testing.assert_allclose(run.decode(run.encode(x)), x, atol=1e-5)
    table = np.asarray(frozen.condition["word"]["table"])
    np.testing.assert_array_equal(run.condition(word=[3, 7])["word"], table[[3, 7]])
    key = jax.random.key(0)
    z = run.sample(key, word=[3, 7], decode=False)
    np.testing.assert_allclose(run.sample(key, word=[3, 7]), run.decode(z), atol=1e-5)


def test_a_run_whose_frozen_parameters_are_gone_says_so(whole, tmp_path):
    config, workdir = whole
    workdir = shutil.copytree(workdir, tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / "frozen")
    for use in (lambda: cfg_jax.load(workdir), lambda: loop.train(config, workdir)):
        with pytest.raises(ValueError, match=r"frozen parameters .*frozen are missing; the check"):
            use()


@pytest.mark.parametrize("remat", ["none", "blocks"])
def test_every_leaf_that_is_trained_moves_within_three_steps(remat):
    config = tiny_frozen()
    config.network.remat = remat
    config.optimiser.weight_decay = 0.0  # which would move what no gradient reaches
    program = program_of(config)
    frozen = jax.device_put(program.frozen, meshes.replicated(program.mesh))
    before, state = hashes(frozen), program.start()
    held = jax.device_get(state.params)
    for _ in range(3):
        state, _ = program.step(state, frozen, BATCH)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), held, jax.device_get(state.params))
    still = [
        jax.tree_util.keystr(p) for p, m in jax.tree_util.tree_leaves_with_path(moved) if not m
    ]
    assert still == []
    assert hashes(frozen) == before  # nor was it given away


def test_neither_the_optimiser_nor_the_averages_nor_the_norm_hold_it(whole):
    program = program_of(whole[0])
    trained = jax.tree.map(lambda leaf: leaf.shape, program.state.params)
    assert jax.tree.map(lambda leaf: leaf.shape, program.state.ema[0]) == trained
    moments = [leaf.shape for leaf in jax.tree.leaves(program.state.opt_state) if leaf.shape]
    every = [leaf.shape for leaf in jax.tree.leaves(program.state.params)]
    assert sorted(moments) == sorted(2 * every)
    names = jax.tree_util.tree_leaves_with_path(program.state)
    assert not any(word in str(path) for path, _ in names for word in ("turn", "table", "shift"))
    state = program.start()
    batch = meshes.global_batch(BATCH, program.mesh)

    def loss(params):
        drawn = program.prepare(program.frozen, batch, state.step)
        return losses(program.blueprint, params, program.frozen, drawn).each.mean()

    gradient = jax.jit(jax.grad(loss))(state.params)
    norm = np.sqrt(sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(gradient)))
    _, measured = program.step(state, program.frozen, batch)
    assert float(measured.grad_norm) == pytest.approx(norm, rel=1e-4)


def test_a_run_goes_on_with_its_own_whatever_its_source_has_become(whole, monkeypatch, tmp_path):
    config, workdir = whole
    import frozen_kinds

    workdir = shutil.copytree(workdir, tmp_path / "run")
    held = hashes(restored(config, workdir, 20)[1])

    def gone(self):
        raise AssertionError("read again")

    for kind in (frozen_kinds.Embedded, frozen_kinds.Rotated):
        monkeypatch.setattr(kind, "frozen", gone)
    config = tiny_frozen()
    config.train.checkpoint_every = config.train.steps = 22
    loop.train(config, workdir)
    with Checkpoints(workdir) as checkpoints:
        assert hashes(checkpoints.restore_frozen()) == held
