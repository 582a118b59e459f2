"""Every guidance as a row: how it is made, its formula in numpy, its calls, its neutral w."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cfg_jax import guidance, prediction

RNG = np.random.default_rng(0)
Z = jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32)
LABELS = jnp.array([0, 4, 7])
OTHERS = jnp.array([[1, 2, 3], [5, 5, 0]])
NULL = 9
TARGET = 0.3


def eps_of(rate, z, logsnr, cond):
    """Nonlinear in everything, so that no two parts of a batch can be confused."""
    level = jnp.broadcast_to(jnp.asarray(logsnr), z.shape[:1])[:, None]
    return jnp.tanh(rate * z + 0.05 * level + 0.2 * cond[:, None])


NETWORK = jax.tree_util.Partial(eps_of, 0.7)
WEAK = jax.tree_util.Partial(eps_of, 0.3)


class Oracle(NamedTuple):
    """The same network and noise levels in numpy, float64."""

    z: np.ndarray
    level: np.ndarray
    alpha: np.ndarray
    sigma: np.ndarray

    def eps(self, cond, rate=0.7):
        cond = np.broadcast_to(np.asarray(cond), (3,))[:, None]
        return np.tanh(rate * self.z + 0.05 * self.level + 0.2 * cond)

    def x(self, eps):
        return (self.z - self.sigma * eps) / self.alpha

    def pair(self, eps):
        return self.x(eps), eps

    def pair_of_x(self, x):
        return x, (self.z - self.alpha * x) / self.sigma

    def pair_of_v(self, v):
        return self.pair_of_x(self.alpha * self.z - self.sigma * v)


def oracle(logsnr) -> Oracle:
    level = np.broadcast_to(np.asarray(logsnr, np.float64), (3,))[:, None]
    alpha, sigma = np.sqrt(1 / (1 + np.exp(-level))), np.sqrt(1 / (1 + np.exp(level)))
    return Oracle(np.asarray(Z, np.float64), level, alpha, sigma)


def grown(w, logsnr):
    return w * jax.nn.sigmoid(logsnr)


def log_prob(z, logsnr, cond):
    return -0.5 * jnp.sum((z - 0.1 * cond[:, None]) ** 2, -1)


def loss(x, z, logsnr, cond):
    return jnp.sum((x - TARGET) ** 2, -1)


DIRECTION = jnp.array([0.5, -1.0, 0.0, 2.0])


def image(z, logsnr):
    return jnp.tanh(z)


def agreement_eps(o, w):
    return o.eps(LABELS) - w * o.sigma * (1 - np.tanh(o.z) ** 2) * np.asarray(DIRECTION)


def classifier_free_eps(o, w, away=NULL):
    return (1 + w) * o.eps(LABELS) - w * o.eps(away)


def composed_eps(o, w):
    first, second, null = o.eps(OTHERS[0]), o.eps(OTHERS[1]), o.eps(NULL)
    return o.eps(LABELS) + w * (first - null) - 2 * w * (second - null)


def energy_eps(o, w):
    eps = o.eps(LABELS)
    through = (1 - o.sigma * 0.7 * (1 - eps**2)) / o.alpha
    return eps + w * o.sigma * 2 * (o.x(eps) - TARGET) * through


def rescaled_pair(o, w):
    """Lin et al.'s Equations 15 and 16 on v = α ε - σ x."""
    v, null = (o.alpha * eps - o.sigma * o.x(eps) for eps in (o.eps(LABELS), o.eps(NULL)))
    guided = (1 + w) * v - w * null
    rescaled = guided * v.std(1, keepdims=True) / guided.std(1, keepdims=True)
    return o.pair_of_v(0.7 * rescaled + 0.3 * guided)


def projected_pair(o, w):
    """Sadat et al.'s Algorithm 1 with η = 0.2 and r = 0.5, without momentum."""
    x, null = o.x(o.eps(LABELS)), o.x(o.eps(NULL))
    change = x - null
    change = change * np.minimum(1, 0.5 / np.linalg.norm(change, axis=1, keepdims=True))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    parallel = (change * unit).sum(1, keepdims=True) * unit
    return o.pair_of_x(x + w * (change - parallel + 0.2 * parallel))


def zero_star_pair(o, w):
    """The optimised scale, on the velocity u = ε - x; from z and u, x = (z - σ u) / (α + σ)."""
    u, null = (eps - o.x(eps) for eps in (o.eps(LABELS), o.eps(NULL)))
    s = (u * null).sum(1, keepdims=True) / (null**2).sum(1, keepdims=True)
    guided = (1 + w) * u - w * s * null
    return o.pair_of_x((o.z - o.sigma * guided) / (o.alpha + o.sigma))


def interval_eps(o, w):
    inside = (o.level >= -1) & (o.level < 2)
    return np.where(inside, classifier_free_eps(o, w), o.eps(LABELS))


class Method(NamedTuple):
    """One guidance: `make(network, w)`, and what it must return."""

    make: Callable[[Any, Any], Any]
    pair: Callable[[Oracle, Any], tuple[np.ndarray, np.ndarray]]
    batches: list[int]
    neutral: float = 0.0


METHODS = {
    "classifier_free": Method(
        lambda network, w: guidance.classifier_free(network, w=w, null=NULL),
        lambda o, w: o.pair(classifier_free_eps(o, w)),
        [6],
    ),
    "negative": Method(
        lambda network, w: guidance.negative(network, w=w, cond=OTHERS[0]),
        lambda o, w: o.pair(classifier_free_eps(o, w, OTHERS[0])),
        [6],
    ),
    "composed": Method(
        lambda network, w: guidance.composed(
            network, conds=list(OTHERS), ws=[w, -2.0 * w], null=NULL
        ),
        lambda o, w: o.pair(composed_eps(o, w)),
        [12],
    ),
    "classifier": Method(
        lambda network, w: guidance.classifier(network, jax.tree_util.Partial(log_prob), w=w),
        lambda o, w: o.pair(
            o.eps(LABELS) + w * o.sigma * (o.z - 0.1 * np.asarray(LABELS)[:, None])
        ),
        [3],
    ),
    "classifier around the unconditional": Method(
        lambda network, w: guidance.classifier(
            network, jax.tree_util.Partial(log_prob), w=w + 1.0, null=NULL
        ),
        lambda o, w: o.pair(
            o.eps(NULL) + (w + 1) * o.sigma * (o.z - 0.1 * np.asarray(LABELS)[:, None])
        ),
        [3],
        neutral=-1.0,
    ),
    "energy": Method(
        lambda network, w: guidance.energy(network, jax.tree_util.Partial(loss), w=w),
        lambda o, w: o.pair(energy_eps(o, w)),
        [3],
    ),
    "agreement": Method(
        lambda network, w: guidance.agreement(
            network, jax.tree_util.Partial(image), text=DIRECTION, w=w
        ),
        lambda o, w: o.pair(agreement_eps(o, w)),
        [3],
    ),
    "scheduled": Method(
        lambda network, w: guidance.scheduled(
            network, w=jax.tree_util.Partial(grown, w), null=NULL
        ),
        lambda o, w: o.pair(classifier_free_eps(o, w / (1 + np.exp(-o.level)))),
        [6],
    ),
    "interval": Method(
        lambda network, w: guidance.interval(
            guidance.classifier_free(network, w=w, null=NULL), low=-1.0, high=2.0
        ),
        lambda o, w: o.pair(interval_eps(o, w)),
        [6, 3],  # Both sides are traced; one is evaluated where the level is one number.
    ),
    "autoguidance": Method(
        lambda network, w: guidance.autoguidance(network, WEAK, w=w),
        lambda o, w: o.pair((1 + w) * o.eps(LABELS) - w * o.eps(LABELS, rate=0.3)),
        [3],
    ),
    "rescaled": Method(
        lambda network, w: guidance.rescaled(network, w=w, null=NULL, phi=0.7, space=prediction.V),
        rescaled_pair,
        [6],
    ),
    "projected": Method(
        lambda network, w: guidance.projected(network, w=w, null=NULL, eta=0.2, norm_threshold=0.5),
        projected_pair,
        [6],
    ),
    "plus_plus": Method(
        lambda network, w: guidance.plus_plus(network, w=w, null=NULL),
        lambda o, w: (o.x(classifier_free_eps(o, w)), o.eps(NULL)),
        [6],
        neutral=-1.0,
    ),
    "zero_star": Method(
        lambda network, w: guidance.zero_star(network, w=w, null=NULL),
        zero_star_pair,
        [6],
    ),
}
