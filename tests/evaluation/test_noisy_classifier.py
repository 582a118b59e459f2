"""Accuracy and cross-entropy over λ against closed forms, and the report of them."""

import json

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import FrozenDict
from PIL import Image
from scipy import stats

from cfg_jax import evaluation, schedules
from cfg_jax.blueprint import Sampling
from cfg_jax.codecs import Folded, Pixels
from cfg_jax.guidance.methods import ClassifierFree
from cfg_jax.model import Model
from cfg_jax.parts import Facts
from cfg_jax.sampling.clips import Off

SCHEDULE = schedules.Cosine(logsnr_min=-8.0, logsnr_max=4.0)
SIDE = 2
LABELS = np.array([0, 1, 1], np.int32)
IMAGES = np.where(LABELS == 0, 0, 255).astype(np.uint8)[:, None, None, None] * np.ones(
    (1, SIDE, SIDE, 1), np.uint8
)


class Exact(nn.Module):
    """Two classes, all of x being -1 or 1: logits ± α/σ² Σ z, for equal priors."""

    def __call__(self, z, logsnr, cond):
        sum_of_z = z.sum(tuple(range(1, z.ndim)))
        half = jnp.exp(logsnr / 2) / jnp.sqrt(nn.sigmoid(-logsnr)) * sum_of_z
        return jnp.stack([-half, half], axis=1)


class SaysOne(nn.Module):
    """Is sure of the second class."""

    def __call__(self, z, logsnr, cond):
        return jnp.broadcast_to(jnp.array([0.0, 50.0]), (len(z), 2))


PIXELS = Pixels()


def model(network, codec):
    return Model(
        network=network,
        params={},
        codec_params={},
        condition_params={},
        kind=None,
        codec=codec,
        conditioners=(),
        schedule=SCHEDULE,
        sampling=Sampling(0.0, 1, None, None, Off(), ClassifierFree()),
        facts=Facts((SIDE, SIDE, 1), ("0", "1"), FrozenDict()),
    )


def closed_form(logsnr):
    """Accuracy Φ(m) and E log(1 + e^-2(m² + m n)), n ~ N(0, 1), with m² = d e^λ."""
    m = SIDE * np.exp(logsnr / 2)
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    loss = np.logaddexp(0, -2 * (m[:, None] ** 2 + m[:, None] * nodes)) @ weights
    return stats.norm.cdf(m), loss / weights.sum()


def measured(codec=PIXELS, **options):
    there = {"samples": 4_000, "bins": 4, "batch": 1_000} | options
    return evaluation.by_noise_level(model(Exact(), codec), IMAGES, LABELS, **there)


@pytest.fixture(scope="module", params=[PIXELS, Folded(factor=2)], ids=["pixels", "folded"])
def found(request):
    """Noise is laid on z, whatever codec makes it: the sum over z is that over x."""
    return measured(request.param)


def test_every_level_has_the_closed_forms_scores(found):
    levels, overall = found
    assert [(level.low, level.high) for level in levels] == [(-8, -5), (-5, -2), (-2, 1), (1, 4)]
    ranges = [np.linspace(level.low, level.high, 400) for level in levels]
    ranges.append(SCHEDULE.grid(2_000))
    for level, lam in zip([*levels, overall], ranges, strict=True):
        accuracy, loss = (values.mean() for values in closed_form(np.asarray(lam)))
        assert level.accuracy == pytest.approx(accuracy, abs=0.03)
        assert level.cross_entropy == pytest.approx(loss, abs=0.03)


def test_neither_batch_nor_devices_change_a_score():
    # 20,000 examples, 8 devices: neither divides by 999.
    found = measured()
    again, overall = measured(batch=999)
    for a, b in zip([*found[0], found[1]], [*again, overall], strict=True):
        assert a.accuracy == b.accuracy
        assert a.cross_entropy == pytest.approx(b.cross_entropy, rel=1e-5)
    assert measured(seed=1)[1].cross_entropy != overall.cross_entropy


def test_fewer_samples_than_images_are_spread_over_them():
    """Of twelve images, six of each class in order, four are seen: two of each."""
    images = np.repeat(IMAGES[:2], 6, axis=0)

    _, overall = evaluation.by_noise_level(
        model(SaysOne(), PIXELS), images, np.repeat([0, 1], 6), samples=4, batch=20
    )
    assert overall.accuracy == 0.5
    assert overall.cross_entropy == pytest.approx(25.0)


def test_the_report_says_what_was_found(found, tmp_path):
    out = tmp_path / "deep" / "report"
    settings = {"samples": 4_000, "seed": 0}
    evaluation.write_classifier_report(out, *found, class_counts=[30, 10], settings=settings)
    report = json.loads((out / "report.json").read_text())
    assert [row["accuracy"] for row in report["levels"]] == [level.accuracy for level in found[0]]
    assert report["p(logsnr)"]["cross_entropy"] == found[1].cross_entropy
    assert report["chance"]["accuracy"] == 0.75
    assert report["chance"]["cross_entropy"] == pytest.approx(stats.entropy([0.75, 0.25]))
    text = (out / "report.md").read_text()
    assert f"| 1 to 4 | {found[0][3].accuracy:.2%} |" in text
    assert "| chance | 75.00% | 0.5623 |" in text
    assert np.asarray(Image.open(out / "accuracy.png").convert("L")).std() > 5
