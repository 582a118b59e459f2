"""The symmetric InfoNCE against NumPy in float64, its gradient included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax import schedules
from cfg_jax.networks.towers import Embeddings
from cfg_jax.objectives import Contrastive
from cfg_jax.objectives.contrastive import contrastive, equal
from cfg_jax.parts import Setting
from cfg_jax.text import Tokens

SCHEDULE = schedules.Cosine()
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 3, (5, 5))
SAME = np.eye(5, dtype=bool)
SAME[1, 3] = SAME[3, 1] = True


def setting(**p_uncond):
    return Setting(SCHEDULE, dict.fromkeys(p_uncond, 0), p_uncond, dict.fromkeys(p_uncond, True))


def oracle(logits, same):
    """Example by example, as Radford et al.'s Figure 3 has it for the ones that all differ."""
    found = np.zeros(len(logits))
    for i in range(len(logits)):
        equal = [j for j in range(len(logits)) if same[i, j]]
        for row in (logits[i], logits[:, i]):
            log_sum = np.log(np.exp(row - row.max()).sum()) + row.max()
            found[i] += 0.5 * np.mean([log_sum - row[j] for j in equal])
    return found


@pytest.mark.parametrize("same", [np.eye(5, dtype=bool), SAME], ids=["different", "two equal"])
def test_losses_and_gradient_are_those_of_the_oracle(same):
    got = contrastive(jnp.asarray(LOGITS, jnp.float32), jnp.asarray(same))
    np.testing.assert_allclose(got, oracle(LOGITS, same), rtol=1e-5)
    gradient = jax.grad(lambda x: contrastive(x, jnp.asarray(same)).mean())(
        jnp.asarray(LOGITS, jnp.float32)
    )
    want = np.zeros_like(LOGITS)
    for place in np.ndindex(5, 5):
        step = np.zeros_like(LOGITS)
        step[place] = 1e-5
        change = oracle(LOGITS + step, same).mean() - oracle(LOGITS - step, same).mean()
        want[place] = change / 2e-5
    np.testing.assert_allclose(gradient, want, atol=1e-6)


def test_an_equal_caption_is_no_negative():
    """Where all agree alike, an example is drawn to each of two equal captions, and from no own."""
    ids = jnp.array([[1, 2], [3, 4], [1, 2], [1, 3]])
    same = equal({"text": Tokens(ids, jnp.ones((4, 2), bool))})
    np.testing.assert_array_equal(same, [[1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]])
    gradient = jax.grad(lambda logits: contrastive(logits, same)[0])(jnp.zeros((4, 4)))
    own = 0.5 * (1 / 4 - 1 / 2)
    np.testing.assert_allclose(gradient[0], [2 * own, 1 / 8, own, 1 / 8], atol=1e-6)
    np.testing.assert_allclose(gradient[:, 0], [2 * own, 1 / 8, own, 1 / 8], atol=1e-6)


def test_a_mask_tells_captions_apart_too():
    mask = jnp.array([[True, True], [True, False]])
    assert not equal({"text": Tokens(jnp.zeros((2, 2), jnp.int32), mask)})[0, 1]


def towers(z, logsnr, cond):
    """Embeddings that depend on everything, of z and of the first ids."""
    image = jnp.tanh(z + 0.1 * logsnr[:, None])
    text = jnp.sin(cond["text"].ids.astype(jnp.float32) + 1.0)
    return Embeddings(image, text, jnp.float32(3.0))


@pytest.mark.parametrize("noisy", [False, True])
def test_what_is_shown_is_noised_to_the_level_that_is_told(noisy):
    x = jnp.asarray(RNG.normal(size=(6, 3)), jnp.float32)
    ids = jnp.asarray(RNG.integers(0, 9, (6, 3)), jnp.int32)
    cond = {"text": Tokens(ids, jnp.ones((6, 3), bool))}
    objective = Contrastive(noisy=noisy)
    drawn = objective.draw(jax.random.key(1), x, cond, setting(text=0.0))
    lam, eps = np.asarray(drawn.logsnr, np.float64)[:, None], np.asarray(drawn.eps, np.float64)
    if noisy:
        assert np.ptp(lam) > 3.0
    else:
        np.testing.assert_array_equal(lam, 20.0)
    z = np.sqrt(1 / (1 + np.exp(-lam))) * np.asarray(x) + np.sqrt(1 / (1 + np.exp(lam))) * eps
    logits = 3.0 * np.tanh(z + 0.1 * lam) @ np.sin(np.asarray(ids, np.float64) + 1.0).T
    want = oracle(logits, np.eye(6, dtype=bool))
    np.testing.assert_allclose(objective.losses(towers, drawn), want, rtol=1e-4)


def test_another_order_of_the_batch_is_the_same_losses_in_that_order():
    x = jnp.asarray(RNG.normal(size=(5, 3)), jnp.float32)
    ids = jnp.array([[1, 2, 3], [4, 5, 6], [1, 2, 3], [7, 8, 9], [1, 2, 4]])
    cond = {"text": Tokens(ids, jnp.ones((5, 3), bool))}
    drawn = Contrastive(noisy=True).draw(jax.random.key(2), x, cond, setting(text=0.0))
    order = jnp.array([3, 0, 4, 1, 2])
    mixed = jax.tree.map(lambda leaf: leaf[order], drawn)
    want = Contrastive().losses(towers, drawn)[order]
    np.testing.assert_allclose(Contrastive().losses(towers, mixed), want, rtol=1e-5)


@pytest.mark.parametrize(
    ("p_uncond", "line"),
    [
        ({"text": 0.1}, "Contrastive always sees text: its p_uncond must be 0"),
        ({}, "one entry of the condition, the sentence; got none"),
        ({"text": 0.0, "label": 0.0}, "the sentence; got text, label"),
    ],
)
def test_what_cannot_be_compared_is_refused(p_uncond, line):
    cond = {name: jnp.zeros((2, 3), jnp.int32) for name in p_uncond}
    with pytest.raises(ValueError, match=line):
        Contrastive().draw(jax.random.key(0), jnp.zeros((2, 1)), cond, setting(**p_uncond))


def test_a_network_that_embeds_nothing_is_refused():
    cond = {"text": jnp.zeros((2, 3), jnp.int32)}
    drawn = Contrastive().draw(jax.random.key(0), jnp.zeros((2, 1)), cond, setting(text=0.0))
    with pytest.raises(ValueError, match=r"needs a network that embeds .*, such as Towers"):
        Contrastive().losses(lambda z, logsnr, cond: z, drawn)
