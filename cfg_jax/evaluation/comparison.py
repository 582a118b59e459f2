"""Samples against a reference, in the Inception network's features: the scores that papers quote.

fid, sfid    Fréchet distances of pool and spatial features (Heusel et al. 2017; Nash et al.
             2021, "Generating Images with Sparse Representations")
is           the Inception score of the samples, over ten parts (Salimans et al. 2016)
kid          the kernel distance, over a hundred pairs of subsets (Bińkowski et al. 2018)
pr           precision and recall (Kynkäänniemi et al. 2019)
"""

import dataclasses
import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float

from cfg_jax.evaluation import inception, record
from cfg_jax.evaluation.archive import Archive
from cfg_jax.evaluation.features import Extractor, extract
from cfg_jax.evaluation.frechet import Moments, frechet_distance, moments
from cfg_jax.evaluation.inception_score import inception_score
from cfg_jax.evaluation.kernel_distance import kernel_distance
from cfg_jax.evaluation.precision_recall import precision_recall
from cfg_jax.runtime.files import checksum

METRICS = ("fid", "sfid", "is", "kid", "pr")

PARTS = 10
"""Of the Inception score, as papers have it."""

SUBSETS, SUBSET_SIZE = 100, 1000
"""Of the kernel distance: how many, and the most images in one (fewer where there are fewer)."""

NEIGHBOURS = 3
"""The k of precision and recall."""

ENOUGH = 10_000
"""Below this many samples, FID is as much a matter of their number; papers take 50,000."""

STATISTICS = {"fid": "mu", "sfid": "mu_s"}
"""The scores that stored statistics allow, and what these are called."""

Value = TypeVar("Value")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Measured:
    """What the scores of one set of images are computed from; None where it is not known.

    Attributes:
      pool: Moments of the pool features, for FID.
      spatial: Moments of the spatial features, for sFID.
      features: The pool features of every image, for KID, precision and recall.
      probabilities: p(y|x) of every image, for the Inception score.
    """

    pool: Moments | None
    spatial: Moments | None
    features: Float[np.ndarray, "n features"] | None = None
    probabilities: Float[np.ndarray, "n classes"] | None = None


def obstacles(samples: Archive, reference: Archive | None) -> dict[str, str]:
    """The scores that two files do not allow, each with the reason in a few words."""
    if reference is None:
        nothing = {name: "there is no reference" for name in METRICS if name != "is"}
        return _lacking(samples) | nothing
    theirs = _lacking(reference)
    theirs.pop("is", None)  # of the samples alone
    return theirs | _lacking(samples)


def _lacking(archive: Archive) -> dict[str, str]:
    """The scores that one file does not allow, and why."""
    if archive.shape is not None:
        if archive.count != 1:
            return {}
        why = dict.fromkeys(METRICS, f"{archive.path} holds one image, which has no spread")
    else:
        why = dict.fromkeys(METRICS, f"{archive.path} has no images (arr_0)")
        why |= {name: f"{why[name]}, and no {held}" for name, held in STATISTICS.items()}
    return {name: told for name, told in why.items() if not _has(archive, name)}


def check_sizes(samples: Archive, reference: Archive) -> None:
    """Raises ValueError where both hold images, of different height or width."""
    if samples.shape and reference.shape and samples.shape[1:3] != reference.shape[1:3]:
        ours, theirs = ("×".join(map(str, a.shape[1:3])) for a in (samples, reference) if a.shape)
        raise ValueError(
            f"{samples.path} holds images of {ours}, {reference.path} of {theirs}: bring both to "
            "one size first"
        )


def statistics(archive: Archive) -> Measured:
    """What a file tells without a look at its images."""
    return Measured(pool=archive.pool, spatial=archive.spatial)


def _has(archive: Archive, score: str) -> bool:
    """Whether a file has the statistics that a score is computed from."""
    return {"fid": archive.pool, "sfid": archive.spatial}.get(score) is not None


def needs_images(archive: Archive, metrics: Collection[str]) -> bool:
    """Whether scores of a file need the network's features of its images."""
    return not all(_has(archive, score) for score in metrics)


def measure(
    archive: Archive, network: Extractor, *, batch: int = 64, progress: bool = True
) -> Measured:
    """Runs the network over a file's images.

    Where the file has statistics beside its images, FID and sFID take those: guided-diffusion's
    references hold the statistics of a whole data set, and 10,000 of its images.

    Args:
      archive: The file, with at least two images.
      network: As `load_inception` returns it.
      batch: Images at a time, over all local devices.
      progress: Whether to show a progress bar.

    Raises:
      ValueError: The file is damaged, or holds fewer images.
    """
    found = extract(
        network,
        archive.batches(batch),
        count=archive.count or 0,
        progress=progress,
        name=archive.path.name,
    )
    return Measured(
        pool=archive.pool or moments(found.pool),
        spatial=archive.spatial or moments(found.spatial),
        features=found.pool,
        probabilities=found.logits,
    )


def measure_once(
    archive: Archive,
    network: Extractor,
    *,
    weights: str,
    cache: Path,
    batch: int = 64,
    progress: bool = True,
) -> Measured:
    """As `measure`, but keeps the result in a folder and reads it from there the next time.

    Args:
      archive: As in `measure`.
      network: As in `measure`.
      weights: The checksum of the network's weights. What is kept serves only the same file of
        images and the same weights, byte by byte.
      cache: The folder, made where missing.
      batch: As in `measure`.
      progress: As in `measure`.
    """
    fingerprint = hashlib.sha256(f"{archive.identity()} {weights}".encode()).hexdigest()
    path = cache / f"features-{fingerprint[:16]}.npz"
    measured = _read(path, fingerprint)
    if measured is None:
        measured = measure(archive, network, batch=batch, progress=progress)
        record.keep(path, fingerprint, _arrays(measured))
    return measured


def _arrays(measured: Measured) -> dict[str, Any]:
    pool, spatial = _known(measured.pool, "pool"), _known(measured.spatial, "spatial")
    return {
        "mu": pool.mean,
        "sigma": pool.covariance,
        "mu_s": spatial.mean,
        "sigma_s": spatial.covariance,
        "features": _known(measured.features, "features"),
        "probabilities": _known(measured.probabilities, "probabilities"),
    }


def _read(path: Path, fingerprint: str) -> Measured | None:
    """What a file keeps; None when it is missing, damaged or another one."""
    kept = record.kept(
        path,
        fingerprint,
        damaged="measuring again",
        other="was measured of something else: measuring again",
    )
    if kept is None:
        return None
    count = len(kept["features"])
    return Measured(
        pool=Moments(kept["mu"], kept["sigma"], count),
        spatial=Moments(kept["mu_s"], kept["sigma_s"], count),
        features=kept["features"],
        probabilities=kept["probabilities"],
    )


def compare(
    samples: Measured, reference: Measured | None, metrics: Collection[str] = METRICS
) -> dict[str, float]:
    """The scores by name.

    Args:
      samples: Of the samples.
      reference: Of the reference; None where only the Inception score is wanted.
      metrics: Some of `METRICS`.

    Returns:
      `fid`, `sfid`, `is` with `is_std`, `kid` with `kid_std`, `precision` and `recall`: those asked
      for. With fewer than 10,000 samples also `fid_bias`, see `fid_bias`.

    Raises:
      ValueError: A name is not a score's, or what a score needs is not known.
    """
    unknown = sorted(set(metrics) - set(METRICS))
    if unknown:
        raise ValueError(f"there is no score {unknown[0]!r}; there are {', '.join(METRICS)}")
    real = reference or Measured(pool=None, spatial=None)
    scores: dict[str, float] = {}
    if "fid" in metrics:
        pool, features = _known(real.pool, "pool"), samples.features
        scores["fid"] = frechet_distance(_known(samples.pool, "pool"), pool)
        if features is not None and 4 <= len(features) < ENOUGH:
            scores["fid_bias"] = fid_bias(features, pool, fid=scores["fid"])
    if "sfid" in metrics:
        maps = (_known(m.spatial, "spatial") for m in (samples, real))
        scores["sfid"] = frechet_distance(*maps)
    if "is" in metrics:
        shuffled = _shuffled(_known(samples.probabilities, "probabilities"))
        scores["is"], scores["is_std"] = inception_score(shuffled, splits=min(PARTS, len(shuffled)))
    if {"kid", "pr"} & set(metrics):
        ours, theirs = (_known(m.features, "features") for m in (samples, real))
        if "kid" in metrics:
            size = min(SUBSET_SIZE, len(ours), len(theirs))
            scores["kid"], scores["kid_std"] = kernel_distance(
                ours, theirs, subsets=SUBSETS, subset_size=size
            )
        if "pr" in metrics:
            scores["precision"], scores["recall"] = precision_recall(
                theirs, ours, neighbours=NEIGHBOURS
            )
    return scores


def score_files(
    samples: Archive,
    reference: Archive | None,
    metrics: Collection[str],
    *,
    weights: Path | None = None,
    cache: Path,
    batch: int = 64,
) -> tuple[dict[str, float], str | None]:
    """The scores of one file against another; the network runs only over images that need it.

    Args:
      samples: The samples.
      reference: The reference; None where only the Inception score is wanted.
      metrics: Some of `METRICS`.
      weights: The network's file; fetched into `cache` when None.
      cache: A folder for weights and the reference's features.
      batch: Images at a time, over all local devices.

    Returns:
      The scores as of `compare`, and the checksum of the weights; None where none were needed.

    Raises:
      ValueError: As `measure` and `compare`, or the weights cannot be read.
    """
    compared = [name for name in metrics if name != "is"]
    needed = needs_images(samples, metrics)
    reference_needed = reference is not None and needs_images(reference, compared)
    measured = statistics(samples)
    other = statistics(reference) if reference else None
    digest = None
    if needed or reference_needed:
        file = inception.fetch_weights(cache) if weights is None else weights
        network, digest = inception.load_inception(file), checksum(file)
        if reference is not None and reference_needed:
            other = measure_once(reference, network, weights=digest, cache=cache, batch=batch)
        if needed:
            measured = measure(samples, network, batch=batch)
    return compare(measured, other, metrics), digest


def fid_bias(features: Float[np.ndarray, "n features"], real: Moments, *, fid: float) -> float:
    """About how much larger FID is than it would be for infinitely many samples.

    To first order FID of n samples exceeds its limit by c / n (Chong & Forsyth 2020, "Effectively
    Unbiased FID and Inception Score and Where to Find Them", Section 3), which is by how much half
    of the samples exceed all of them.

    Args:
      features: Of the samples, at least four.
      real: Moments of the reference.
      fid: Of all the samples.
    """
    half = _shuffled(features)[: len(features) // 2]
    return frechet_distance(moments(half), real) - fid


def _shuffled(rows: np.ndarray) -> np.ndarray:
    """The rows in an order of their own: samples may come sorted by class."""
    return rows[np.random.default_rng(0).permutation(len(rows))]


def _known(value: Value | None, name: str) -> Value:
    if value is None:
        raise ValueError(f"a score needs the {name} of samples and reference, which are not known")
    return value
