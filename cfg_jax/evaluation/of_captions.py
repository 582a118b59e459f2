"""Scores samples of captions over guidance strengths: whether pictures show what was asked for."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Integer

from cfg_jax.data import Dataset
from cfg_jax.data.dataset import load
from cfg_jax.data.samples import to_float
from cfg_jax.data.scene_captions import Wanted, parsed
from cfg_jax.data.scenes import MOST
from cfg_jax.evaluation.caption_match import agrees
from cfg_jax.evaluation.detector import TrainedDetector, is_scenes, train_detector
from cfg_jax.evaluation.frechet import Moments, frechet_distance, moments
from cfg_jax.evaluation.of_model import sampler
from cfg_jax.evaluation.sweep import each_strength
from cfg_jax.model import Model
from cfg_jax.runtime import files

SAMPLES = 252
"""Captions of seen pairs and relations, and as many of held-out ones, if nobody says."""

PICTURED = 12
"""Captions in the picture, at most."""

CaptionScorer = Callable[[np.ndarray, Sequence[str]], Mapping[str, float]]
"""`(pictures, captions) -> scores by name`: pictures of (n, 32, 32, 3) in [-1, 1]."""


class Captions(NamedTuple):
    """The captions that are sampled, seen and held-out ones in turn.

    Attributes:
      texts: The captions.
      wanted: What each asks for.
      held_out: Whether each has a pair of colour and digit, or a relation of two digits, that no
        training scene has.
      x: The real scene that each was said of.
    """

    texts: tuple[str, ...]
    wanted: tuple[Wanted, ...]
    held_out: Bool[np.ndarray, " n"]
    x: Float[np.ndarray, "n height width channels"]

    @property
    def counts(self) -> Integer[np.ndarray, " n"]:
        """How many digits each asks for."""
        return np.array([len(wanted.objects) for wanted in self.wanted])


def entry_of(model: Model, data: Dataset) -> str | None:
    """The name of a model's only entry, where that is the caption of scenes; else None."""
    names = [name for name, _ in model.conditioners]
    if len(names) != 1 or names[0] not in data.texts or not is_scenes(data):
        return None
    if "novel" not in data.arrays or not len(data.source):
        return None
    texts = data.source[0][names[0]]
    return names[0] if all(parsed(text) is not None for text in texts) else None


def captions_of(data: Dataset, name: str, samples: int) -> Captions:
    """Captions of held-out scenes, as many of each kind: seen or held out, of each count of digits.

    Of the two captions of a scene the first and the second are taken in turn.

    Args:
      data: Scenes.
      name: The name of their captions.
      samples: How many seen ones, and how many held-out ones.

    Raises:
      ValueError: There is no scene of some kind.
    """
    arrays = load(data.source, skip_bad=data.skip_bad).arrays
    counts, novel = (arrays["objects"][..., 0] >= 0).sum(-1), arrays["novel"] == 1
    kinds = []
    for count in range(1, MOST + 1):
        for held_out in (False, True):
            index = np.flatnonzero((counts == count) & (novel == held_out))
            if not len(index):
                what = "held-out" if held_out else "seen"
                raise ValueError(f"no scene of {count} digits has {what} captions in {data.name}")
            kinds.append(np.resize(index, -(-samples // MOST)))
    chosen = np.stack(kinds, axis=1).ravel()[: 2 * samples]
    texts = tuple(arrays[name][i][turn // len(kinds) % 2] for turn, i in enumerate(chosen))
    wanted = tuple(found for text in texts if (found := parsed(text)) is not None)
    if len(wanted) < len(texts):
        raise ValueError(f"some captions of {data.name} are in another language than scenes'")
    return Captions(texts, wanted, novel[chosen], to_float(arrays["x"][chosen]))


class CaptionJudge(NamedTuple):
    """What scores samples of captions.

    Attributes:
      detector: Finds the digits in them.
      real: The features of held-out real scenes by it.
      scorers: What else scores them, such as an agreement of pictures and sentences.
    """

    detector: TrainedDetector
    real: Moments
    scorers: tuple[CaptionScorer, ...] = ()

    def scores(self, x: np.ndarray, captions: Captions) -> dict[str, float]:
        """The scores of samples of captions.

        Args:
          x: (n, 32, 32, 3), one a caption.
          captions: What they should show.

        Returns:
          `caption_accuracy`, the share of seen captions whose sample shows exactly what they ask
          for, see `agrees`; the same of held-out captions as `caption_accuracy_held_out` and of all
          that ask for so many digits as `caption_accuracy_1`, `…_2` and `…_3`;
          `frechet_distance` to real scenes; `diversity`, the total variance of the features as a
          share of that of real scenes; and what the scorers give.

        Raises:
          ValueError: There are fewer samples than captions, or they cannot be scored.
        """
        if len(x) != len(captions.texts):
            raise ValueError(f"there are {len(x)} pictures for {len(captions.texts)} captions")
        found, features = self.detector.found_and_features(x)
        right = np.array([agrees(*each) for each in zip(found, captions.wanted, strict=True)])
        drawn = moments(features)
        scores = {
            "caption_accuracy": float(right[~captions.held_out].mean()),
            "caption_accuracy_held_out": float(right[captions.held_out].mean()),
            **{
                f"caption_accuracy_{count}": float(right[captions.counts == count].mean())
                for count in np.unique(captions.counts)
            },
            "frechet_distance": frechet_distance(drawn, self.real),
            "diversity": float(np.trace(drawn.covariance) / np.trace(self.real.covariance)),
        }
        for scorer in self.scorers:
            scores |= scorer(x, captions.texts)
        return scores


def caption_judge_of(
    train: Dataset,
    held_out: Dataset,
    *,
    scorers: Sequence[CaptionScorer] = (),
    cache: Path | None = None,
) -> CaptionJudge:
    """What scores samples of scenes' captions; its detector is trained once, and kept.

    Args:
      train: Real scenes that the detector learns from.
      held_out: Real scenes that samples are compared with.
      scorers: What else scores samples.
      cache: The folder where the detector is kept; `files.cache()` when None.

    Raises:
      ValueError: The data are no scenes.
    """
    detector = train_detector(train, held_out, cache=cache or files.cache())
    x = load(held_out.source, skip_bad=held_out.skip_bad).arrays["x"]
    return CaptionJudge(detector, moments(detector.features(x)), tuple(scorers))


class CaptionEvaluation(NamedTuple):
    """The scores of a model of captions.

    Attributes:
      rows: One a strength: "w", and the scores by name.
      reference: The scores of the real scenes that the captions were said of.
      judge: What scored.
      captions: What was sampled.
      examples: The first samples of each strength.
    """

    rows: list[dict[str, float]]
    reference: dict[str, float]
    judge: CaptionJudge
    captions: Captions
    examples: dict[float, np.ndarray]


def evaluate_captions(
    model: Model,
    train: Dataset,
    held_out: Dataset,
    *,
    guiding: Mapping[float, Mapping[str, Any]],
    samples: int = SAMPLES,
    seed: int = 0,
    batch: int = 250,
    mesh: Mesh | None = None,
    scorers: Sequence[CaptionScorer] = (),
    cache: Path | None = None,
) -> CaptionEvaluation:
    """Samples the same captions of held-out scenes with every strength, and scores each set.

    Args:
      model: A model whose condition is the caption of scenes, see `entry_of`.
      train: As in `caption_judge_of`.
      held_out: As in `caption_judge_of`.
      guiding: Arguments of `Model.sample` for each strength, such as {1.0: {"w": 1.0}}.
      samples: Captions of seen pairs a strength, and as many of held-out ones.
      seed: Random seed of the noise, the same for every strength.
      batch: As in `sampler`.
      mesh: As in `sampler`.
      scorers: As in `caption_judge_of`.
      cache: As in `caption_judge_of`.

    Returns:
      The scores.

    Raises:
      ValueError: The model takes no captions of such scenes, some kind of scene is missing, there
        are no strengths, or the samples at some w cannot be scored.
    """
    name = entry_of(model, held_out)
    if name is None:
        raise ValueError(f"{model!r} does not take the captions of {held_out.name} alone")
    captions = captions_of(held_out, name, samples)
    judge = caption_judge_of(train, held_out, scorers=scorers, cache=cache)
    texts, examples = np.array(captions.texts), {}
    sample = sampler(model, {name: texts}, guiding, seed=seed, batch=batch, mesh=mesh)

    def keep(strength: float, drawn: np.ndarray) -> None:
        examples[strength] = drawn[:PICTURED]

    rows = each_strength(
        lambda w: sample(texts, w),
        lambda x: judge.scores(x, captions),
        ws=list(guiding),
        on_samples=keep,
    )
    reference = judge.scores(captions.x, captions)
    return CaptionEvaluation(
        [{"w": w, **scores} for w, scores in rows], reference, judge, captions, examples
    )
