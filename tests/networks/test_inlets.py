"""How networks are shown the entries of a condition, and which conditions they refuse."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from cfg_jax.diffusion.condition import Noisy
from cfg_jax.networks import UNet, inlets
from cfg_jax.parts import Beside, Classes, Sequence, Vector

LABEL = ("label", Classes(5))
NET = UNet(channels=4, channel_mult=(1,), blocks=1, attention_resolutions=(), head_channels=4)
Z, LAM = jnp.ones((3, 8, 8, 1)), jnp.zeros(3)
SMALL, LABELS = jnp.ones((3, 4, 4, 1)), jnp.array([0, 2, 4])
UPSAMPLER = NET.clone(inlets=(("small", Beside((4, 4, 1))),))
NOISED = NET.clone(inlets=(("small", Beside((4, 4, 1), noised=True)),))
SHOWN = NET.clone(inlets=(LABEL, ("pose", Vector(3)), ("text", Sequence(7, 5))))
WHOLE = {"label": LABELS, "pose": jnp.ones((3, 3)), "text": jnp.ones((3, 7, 5))}


@pytest.mark.parametrize(
    ("network", "cond", "message"),
    [
        (NET.clone(inlets=(LABEL,)), None, "the UNet needs 'label' in its condition"),
        (NET, {"label": LABELS}, "the UNet takes no 'label' in its condition"),
        (NET, LABELS, "a dictionary of named entries as its condition"),
        (UPSAMPLER, {}, "the UNet needs 'small' in its condition"),
        (UPSAMPLER, {"small": Z}, r"'small' must have shape \(3, 4, 4, 1\), got \(3, 8, 8, 1\)"),
        (UPSAMPLER, {"small": SMALL, "label": LABELS}, "takes no 'label'"),
        (UPSAMPLER, {"small": SMALL[:2]}, r"must have shape \(3, 4, 4, 1\), got \(2, 4, 4, 1\)"),
        (UPSAMPLER, {"small": Noisy(SMALL, LAM)}, "'small' must have shape"),
        (NOISED, {"small": SMALL}, "'small' must have shape Noisy"),
        (SHOWN, WHOLE | {"pose": jnp.ones((3, 4))}, r"'pose' must have shape \(3, 3\)"),
        (SHOWN, WHOLE | {"text": jnp.ones((3, 7, 4))}, r"'text' must have shape \(3, 7, 5\)"),
        (SHOWN, WHOLE | {"label": jnp.eye(3)}, r"'label' must have shape \(3,\), got \(3, 3\)"),
    ],
)
def test_other_conditions_than_the_networks_own_are_refused(network, cond, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(network.init, jax.random.key(0), Z, LAM, cond)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (5, "inlets must be .name, inlet. pairs, got 5"),
        (("label",), "inlets must be .name, inlet. pairs"),
        ((("label", 5),), "'label' must be Classes, Vector, Beside or Sequence, got 5"),
        ((LABEL, LABEL), "two entries are named 'label'"),
        (((3, Classes(5)),), "an entry cannot be named 3"),
        ((("a-b", Classes(5)),), "an entry cannot be named 'a-b'"),
        *(
            (((name, Classes(5)),), f"an entry cannot be named '{name}'")
            for name in ("level", "level_0", "input", "middle_0", "output", "up1_0", "downsample1")
        ),
    ],
)
def test_inlets_that_no_network_can_have_are_refused(wrong, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        NET.clone(inlets=wrong)


def test_an_array_of_another_dimension_cannot_be_laid_beside():
    with pytest.raises(ValueError, match=r"'small' has shape \(4, 4, 1\), which cannot be laid"):
        UPSAMPLER.check((8, 1))


@pytest.mark.slow
def test_a_network_says_what_it_takes_and_zeros_are_such_a_condition():
    network = SHOWN.clone(inlets=(*SHOWN.inlets, ("small", Beside((4, 4, 1), noised=True))))
    assert network.takes == ("label", "pose", "text", "small")
    assert (NET.takes, NET.clone(inlets=()).takes) == ((), ())
    cond = inlets.zeros(network.inlets, batch=3)
    variables = network.init(jax.random.key(0), Z, LAM, cond)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(
        lambda leaf: leaf.shape, network.shapes((8, 8, 1))
    )
    assert network.shapes((8, 8, 1))["params"]["label"]["embedding"].shape == (5, 16)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(cond))


def test_names_of_entries_are_free_and_their_parameters_bear_them():
    network = NET.clone(inlets=(("genre", Classes(3)), ("tempo", Vector(1))))
    params = network.shapes((8, 8, 1))["params"]
    own = set(NET.shapes((8, 8, 1))["params"])
    assert set(params) - own == {"genre", "tempo_0", "tempo_1"}
