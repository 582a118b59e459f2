"""All entries of a condition together: nulls, who is hidden with whom, what is random."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from cfg_jax import conditions, schedules
from cfg_jax.conditions import Label, Small, Vector, hidden
from cfg_jax.diffusion.condition import KEPT, Noisy
from cfg_jax.diffusion.noise import examples
from cfg_jax.parts import Facts

COUNT = 4096
FACTS = Facts(
    (8, 8, 1),
    tuple("0123456789"),
    {
        "label": jax.ShapeDtypeStruct((), jnp.int32),
        "vector": jax.ShapeDtypeStruct((3,), jnp.float32),
    },
)
MADE = (
    ("label", Label(p_uncond=0.3).bind("label", FACTS)),
    ("vector", Vector(p_uncond=0.1).bind("vector", FACTS)),
    ("small", Small(p_uncond=0.2, logsnr_min=0.0).bind("small", FACTS)),
)


def who(p_uncond, together, seed=0):
    """Which of COUNT examples are shown the null, by entry."""
    cond = {name: jnp.zeros(COUNT) for name in p_uncond}
    keys = examples(jax.random.key(seed), jnp.arange(COUNT))
    found = hidden(keys, cond, dict.fromkeys(p_uncond, 1.0), p_uncond, together)
    return {name: np.asarray(entry) == 1.0 for name, entry in found.items()}


def likely(mask, p):
    return stats.binomtest(int(mask.sum()), len(mask), p).pvalue > 1e-3


def test_what_guidance_hides_together_is_hidden_by_one_draw():
    """Of the same probability together, else the less often hidden one with the other."""
    gone = who({"a": 0.3, "b": 0.3, "c": 0.1}, {"a": True, "b": True, "c": True})
    np.testing.assert_array_equal(gone["a"], gone["b"])
    assert not (gone["c"] & ~gone["a"]).any()
    assert likely(gone["a"], 0.3)
    assert likely(gone["c"], 0.1)


def test_the_others_are_hidden_independently():
    p = {"a": 0.3, "b": 0.2, "c": 0.4}
    gone = who(p, {"a": True, "b": False, "c": False})
    for name in p:
        assert likely(gone[name], p[name])
    for one, other in (("a", "b"), ("a", "c"), ("b", "c")):
        assert likely(gone[one] & gone[other], p[one] * p[other])
    assert likely(gone["a"] & gone["b"] & gone["c"], 0.024)


def test_a_condition_of_a_batch_and_its_inlets():
    x = jnp.linspace(-1, 1, 128).reshape(2, 8, 8, 1)
    batch = {"label": jnp.array([3, 4]), "vector": jnp.ones((2, 3))}
    cond = conditions.read(MADE, {}, batch, x)
    assert list(cond) == ["label", "vector", "small"]
    np.testing.assert_array_equal(cond["label"], [3, 4])
    keys = examples(jax.random.key(0), jnp.arange(2))
    shown = conditions.shown(MADE, keys, cond, schedules.Cosine(), training=True)
    assert isinstance(shown["small"], Noisy)
    np.testing.assert_array_equal(shown["vector"], cond["vector"])
    assert [name for name, _ in conditions.inlets(MADE)] == list(cond)


def test_nulls_of_guidance_and_of_training():
    """Guidance keeps what it does not hide; training what is never hidden."""
    null = conditions.null(MADE)
    assert (null["label"], null["vector"], null["small"]) == (10, 0.0, KEPT)
    never = tuple((name, made) for name, made in MADE if name != "vector")
    never += (("vector", Vector(p_uncond=0.0, length=3)),)
    training = conditions.hidden_null(never)
    assert training["label"] == 10
    assert training["small"] == Noisy(0.0, -10.0)
    assert training["vector"] is KEPT
    unhidden = Label(num_classes=3, has_null=False, p_uncond=0.0)
    assert conditions.null((("label", unhidden),)) == {"label": KEPT}


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_the_ends_of_p_uncond_are_certain(p):
    gone = who({"a": p, "b": p}, {"a": True, "b": False})
    assert gone["a"].all() == gone["a"].any() == gone["b"].all() == gone["b"].any() == bool(p)


def test_an_entry_that_the_data_do_not_have_is_named():
    batch = {"x": jnp.zeros((2, 8, 8, 1)), "label": jnp.zeros(2, int), "replaced": jnp.zeros(2)}
    other = (("kind", Label(num_classes=10).bind("kind", FACTS)),)
    line = "config.condition.kind is made of 'kind', which the data do not .*; they have label$"
    with pytest.raises(ValueError, match=line):
        conditions.read(other, {}, batch, batch["x"])
