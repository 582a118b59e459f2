"""Transformers under the ordinary recipe: trained, loaded and sampled from."""

import json

import jax
import numpy as np
import pytest
from recipes import tiny
from sequences import Counted

import cfg_jax
from cfg_jax import recipe
from cfg_jax.networks import DiT, MMDiT
from cfg_jax.training.loop import train

pytestmark = pytest.mark.slow


def config(kind, sequence):
    made = tiny()
    made.network = recipe.node(kind, width=16, depth=1, heads=2)
    made.train.steps = 3
    made.train.log_every = 1
    if sequence:
        made.condition.label = None
        made.condition.words = recipe.node(Counted)
    return made


@pytest.mark.parametrize(("kind", "sequence"), [(DiT, False), (DiT, True), (MMDiT, True)])
def test_it_trains_and_samples(tmp_path, kind, sequence):
    """The loss is finite, all parameters that can move have moved, guided pictures are finite."""
    train(config(kind, sequence), tmp_path)
    losses = [
        entry["loss"]
        for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
        if "loss" in (entry := json.loads(line))
    ]
    assert len(losses) == 3
    assert np.all(np.isfinite(losses))
    model = cfg_jax.load(tmp_path)
    assert isinstance(model.network, kind)
    assert np.abs(model.params["params"]["output"]["kernel"]).max() > 0
    entry = {"words" if sequence else "label": np.array([3, 7])}
    pictures = model.sample(jax.random.key(0), w=1.0, steps=2, **entry)
    assert pictures.shape == (2, 8, 8, 1)
    assert np.all(np.isfinite(pictures))


def test_a_network_that_needs_a_sequence_says_so_before_training(tmp_path):
    with pytest.raises(ValueError, match="the MMDiT needs a sequence in its condition"):
        train(config(MMDiT, sequence=False), tmp_path)
