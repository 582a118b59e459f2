"""How well pictures agree with their captions: scores of the embeddings of a CLIP."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import ArrayLike, Float

from cfg_jax.data.samples import to_float
from cfg_jax.diffusion import checks
from cfg_jax.evaluation.features import checked, extract, over_devices
from cfg_jax.model import Model

_FORWARD_BATCH = 256
"""Examples that are embedded at a time."""


def clip_score(
    images: Float[ArrayLike, "n features"],
    texts: Float[ArrayLike, "n features"],
    *,
    weight: float = 1.0,
) -> float:
    """The mean cosine of each image and its text, none below 0, times 100.

    100 w E[max(cos(f, g), 0)] (Hessel et al. 2021, "CLIPScore: A Reference-free Evaluation Metric
    for Image Captioning", Section 3, where w is 2.5 and the factor of 100 is not there). With
    w = 1 it is what most reports of text-to-image models call the CLIP score.

    Args:
      images: Embeddings of the images, of any length but zero.
      texts: Those of their texts.
      weight: w.

    Raises:
      ValueError: There are none, their shapes differ, or they are not finite.

    >>> import numpy as np
    >>> from cfg_jax.evaluation import clip_score
    >>> clip_score(np.array([[3.0, 4.0], [1.0, 0.0]]), np.array([[1.0, 0.0], [-1.0, 0.0]]))
    30.0
    """
    image, text = _units("images", images), _units("texts", texts)
    _check_pairs(image, text)
    cosines = np.sum(image * text, axis=1)
    return float(100.0 * weight * np.mean(np.maximum(cosines, 0.0)))


def r_precision(
    images: Float[ArrayLike, "n features"],
    texts: Float[ArrayLike, "n features"],
    names: Sequence[str],
    *,
    pool: Float[ArrayLike, "m features"] | None = None,
    pool_names: Sequence[str] | None = None,
    candidates: int = 99,
    seed: int = 0,
) -> float:
    """The share of images to which their own text is nearer than all of 99 others.

    Xu et al. 2018, "AttnGAN: Fine-Grained Text to Image Generation with Attentional Generative
    Adversarial Networks", Section 4, with R = 1. The others of image i are drawn by (seed, i) from
    the pool, without replacement, none of its own text's name and no two of one name. Chance is
    1 %; a tie is lost, so that embeddings which are all alike have 0.

    Args:
      images: Embeddings of the images.
      texts: Those of their texts.
      names: What each text says, such as the text itself.
      pool: Embeddings of the texts to draw from; `texts` when None.
      pool_names: What these say; `names` when None.
      candidates: How many others an image has.
      seed: Random seed.

    Raises:
      ValueError: Shapes or lengths do not fit each other, or there are too few different names.

    >>> import numpy as np
    >>> from cfg_jax.evaluation import r_precision
    >>> r_precision(np.eye(3), np.eye(3)[[0, 2, 1]], ["a", "b", "c"], candidates=2)
    0.3333333333333333
    """
    image, text = _units("images", images), _units("texts", texts)
    _check_pairs(image, text)
    if len(names) != len(text):
        raise ValueError(f"names must be {len(text)}, one a text; got {len(names)}")
    others = text if pool is None else _units("pool", pool)
    other_names = names if pool_names is None else pool_names
    if len(other_names) != len(others) or others.shape[1] != text.shape[1]:
        raise ValueError(
            f"pool must have a name a row and rows of {text.shape[1]}, got {len(other_names)} "
            f"names for shape {others.shape}"
        )
    checks.whole("candidates", candidates, 1)
    first = {name: row for row, name in reversed(list(enumerate(other_names)))}
    places = {name: place for place, name in enumerate(first)}
    rows = np.array(list(first.values()))
    if len(rows) - any(name in places for name in names) < candidates:
        raise ValueError(
            f"{candidates} candidates need as many texts that differ from an image's own; "
            f"the pool has {len(rows)} in all"
        )
    won = 0
    for i, name in enumerate(names):
        own = places.get(name)
        count = len(rows) - (own is not None)
        drawn = np.random.default_rng((seed, i)).choice(count, candidates, replace=False)
        drawn = drawn if own is None else drawn + (drawn >= own)
        won += bool(image[i] @ text[i] > (others[rows[drawn]] @ image[i]).max())
    return won / len(names)


def _units(name: str, vectors: Any) -> Float[np.ndarray, "n features"]:
    """Vectors brought to length one, float64; what has no length stays zero."""
    found = np.asarray(vectors, np.float64)
    if found.ndim != 2 or not len(found) or not np.all(np.isfinite(found)):
        raise ValueError(f"{name} must be finite vectors of shape (n, features), got {found.shape}")
    length = np.linalg.norm(found, axis=1, keepdims=True)
    return found / np.where(length > 0.0, length, 1.0)


def _check_pairs(image: np.ndarray, text: np.ndarray) -> None:
    if image.shape != text.shape:
        raise ValueError(f"texts must have the shape of images, {image.shape}; got {text.shape}")


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedAgreement:
    """A CLIP of one kind of captioned pictures, which scores others of this kind.

    Attributes:
      model: The towers, as `cfg_jax.load` gives a run of them.
      pool: Embeddings of the first captions of the held-out examples, each once: what R-precision
        draws from.
      says: The first caption of the held-out example that each held-out caption is of: captions of
        one example say the same, and are no candidates for each other.
      held_out_r_precision: R-precision of the held-out real pictures, in [0, 1].
      held_out_clip_score: Their CLIP score.
    """

    model: Model
    pool: Float[np.ndarray, "m features"] = dataclasses.field(repr=False)
    says: Mapping[str, str] = dataclasses.field(repr=False)
    held_out_r_precision: float
    held_out_clip_score: float

    def images(self, x: ArrayLike) -> Float[np.ndarray, "n features"]:
        """Unit embeddings of any number of pictures, in batches of one size: one compilation.

        Args:
          x: (n, *shape): pictures as they are stored, or as floats in [-1, 1], what lies beyond
            being clipped as it is when they are shown.

        Raises:
          ValueError: There are none, they have another shape, or hold NaN or infinities.
        """
        given = checked(x, self.model.facts.shape, "picture")
        parts = (given[i : i + _FORWARD_BATCH] for i in range(0, len(given), _FORWARD_BATCH))
        look = over_devices(_look, self.model.agreement)
        return extract(
            lambda part: look(_floats(part)), map(_full, parts), count=len(given), progress=False
        )[: len(given)]

    def texts(self, captions: Sequence[str]) -> Float[np.ndarray, "n features"]:
        """Unit embeddings of any number of captions, in batches of one size.

        Raises:
          ValueError: There are none, or one is no text.
        """
        if not len(captions):
            raise ValueError("there are no captions")
        ((name, _),) = self.model.conditioners
        found = []
        for start in range(0, len(captions), _FORWARD_BATCH):
            part = list(captions[start : start + _FORWARD_BATCH])
            full = part + part[-1:] * (_FORWARD_BATCH - len(part))
            shown = self.model.condition({name: full})
            found.append(np.asarray(_read(self.model.agreement, shown))[: len(part)])
        return np.concatenate(found)

    def __call__(self, x: ArrayLike, captions: Sequence[str], *, seed: int = 0) -> dict[str, float]:
        """Scores pictures by the captions that they were drawn for.

        Args:
          x: As in `images`.
          captions: One a picture.
          seed: Of the candidates of R-precision.

        Returns:
          {"r_precision": in [0, 1], "clip_score": from 0 to 100}. Fewer than 100 different
          held-out captions make fewer candidates than 99.

        Raises:
          ValueError: There are none, or not as many captions as pictures.
        """
        if len(captions) != len(np.asarray(x)):
            raise ValueError(f"captions must be {len(np.asarray(x))}, got {len(captions)}")
        image, text = self.images(x), self.texts(captions)
        names = [self.says.get(caption, caption) for caption in captions]
        pool_names = list(dict.fromkeys(self.says.values()))
        precision = r_precision(
            image,
            text,
            names,
            pool=self.pool,
            pool_names=pool_names,
            candidates=min(99, len(pool_names) - 1),
            seed=seed,
        )
        return {"r_precision": precision, "clip_score": clip_score(image, text)}


def _look(agreement: Any, x: Any) -> Any:
    return agreement.images(x)


@jax.jit
def _read(agreement: Any, cond: Any) -> Any:
    return agreement.texts(cond)


def _full(part: np.ndarray) -> np.ndarray:
    """A batch of one size, its last example repeated."""
    return np.concatenate([part, np.repeat(part[-1:], _FORWARD_BATCH - len(part), axis=0)])


def _floats(x: np.ndarray) -> np.ndarray:
    return to_float(x) if x.dtype.kind != "f" else np.clip(x.astype(np.float32), -1.0, 1.0)
