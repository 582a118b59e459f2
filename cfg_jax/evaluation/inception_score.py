"""The Inception score of a classifier's probabilities, whichever the classifier.

    IS = exp E_x KL(p(y|x) ‖ p(y)),   p(y) = E_x p(y|x)

(Salimans et al. 2016, "Improved Techniques for Training GANs", Section 4.) It lies between 1 and
the number of classes: high when each sample is surely of some class and all are equally frequent.
"""

from typing import overload

import numpy as np
from jaxtyping import ArrayLike, Float
from scipy.special import rel_entr


@overload
def inception_score(probabilities: ArrayLike, *, splits: None = None) -> float: ...


@overload
def inception_score(probabilities: ArrayLike, *, splits: int) -> tuple[float, float]: ...


def inception_score(
    probabilities: ArrayLike, *, splits: int | None = None
) -> float | tuple[float, float]:
    """Scores p(y|x) of many samples x, in float64, with 0 log 0 = 0.

    Args:
      probabilities: p(y|x) of (samples, classes): rows of numbers ≥ 0 that sum to 1.
      splits: Scores this many consecutive parts of almost equal size instead, as Salimans et al. do
        with ten. Shuffle samples that are sorted by class first.

    Returns:
      The score; with `splits`, the mean and standard deviation (divided by splits) over the parts.

    Raises:
      ValueError: Rows are not distributions, there are none, or more splits than samples.

    >>> import numpy as np
    >>> from cfg_jax.evaluation import inception_score
    >>> round(inception_score(np.eye(4)), 6)
    4.0
    """
    p = np.asarray(probabilities, np.float64)
    if p.ndim != 2 or p.size == 0:
        raise ValueError(f"probabilities must have shape (samples, classes), got {p.shape}")
    if not (np.all(p >= 0) and np.allclose(p.sum(-1), 1.0, rtol=0, atol=1e-3)):
        raise ValueError("each row of probabilities must be ≥ 0 and sum to 1")
    if splits is None:
        return _score(p)
    if not 1 <= splits <= len(p):
        raise ValueError(f"splits must lie in [1, {len(p)}], the number of samples; got {splits}")
    scores = [_score(part) for part in np.array_split(p, splits)]
    return float(np.mean(scores)), float(np.std(scores))


def _score(p: Float[np.ndarray, "samples classes"]) -> float:
    divergence = rel_entr(p, p.mean(0)).sum(-1)
    return float(np.exp(divergence.mean()))
