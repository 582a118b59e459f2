"""Whether what was found in a scene is what its caption asks for, and what it consists of."""

import numpy as np
from jaxtyping import Int, Real

from cfg_jax.data.scene_captions import Wanted
from cfg_jax.data.scenes import DIGIT_SIDE, SIDE


def agrees(found: Real[np.ndarray, "count 4"], wanted: Wanted) -> bool:
    """Whether a scene shows exactly what a caption asks for.

    Every digit is there in its colour, and no other. Several stand in their order: each lies
    further along the way than the one before it, and further along the way than across it. Where
    a corner is asked for, the digit stands in that half of the picture from the top and from the
    left.

    Args:
      found: Digit, colour, and row and column of the upper left corner of each.
      wanted: From `parsed`.

    >>> import numpy as np
    >>> from cfg_jax.data.scene_captions import parsed
    >>> from cfg_jax.evaluation.caption_match import agrees
    >>> seven, three = (7, 2, 10, 2), (3, 0, 12, 18)  # blue, red
    >>> wanted = parsed("a red three right of a blue seven")
    >>> agrees(np.array([three, seven]), wanted), agrees(np.array([three]), wanted)
    (True, False)
    """
    way = wanted.way
    if way is not None:
        found = found[np.argsort(found[:, 3 - way], kind="stable")]
        steps = np.diff(found[:, 2:], axis=0)
        along, across = steps[:, 1 - way], steps[:, way]
        if not np.all(along > np.abs(across)):
            return False
    if not np.array_equal(found[:, :2], wanted.objects):
        return False
    if wanted.corner is None:
        return True
    return np.array_equal(found[0, 2:] > (SIDE - DIGIT_SIDE) / 2, wanted.corner)


def shows(found: Real[np.ndarray, "count 4"], objects: Int[np.ndarray, "most 4"]) -> bool:
    """Whether exactly the digits of a scene were found, each in its colour and at its place.

    Args:
      found: As in `agrees`.
      objects: The same of what is there, -1 where there are fewer.
    """
    there = objects[objects[:, 0] >= 0]
    return sorted(map(tuple, found)) == sorted(map(tuple, there))
