"""The Inception network of FID with its published weights: a function from images to features."""

import hashlib
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax.traverse_util import flatten_dict, unflatten_dict
from tqdm import tqdm

from cfg_jax.evaluation.features import over_devices
from cfg_jax.evaluation.inception_network import Activations, InceptionV3
from cfg_jax.runtime import torch_file
from cfg_jax.runtime.files import atomic, checksum

URL = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth"
)
"""The weights of the graph of 2015-12-05 as pytorch-fid and torch-fidelity publish them: 96 MB."""

SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"

_OTHERS = "these are not the weights of FID's network"

_CHUNK = 1 << 20
_SECONDS = 30
"""Without an answer, after which a fetch is given up."""

_NAMES = {
    ("conv", "kernel"): "conv.weight",
    ("bn", "scale"): "bn.weight",
    ("bn", "bias"): "bn.bias",
    ("bn", "mean"): "bn.running_mean",
    ("bn", "var"): "bn.running_var",
    ("fc", "kernel"): "fc.weight",
}
"""The last two names of a leaf here, and how its name ends in PyTorch."""


def load_inception(weights: Path) -> Callable[[np.ndarray], Activations]:
    """The Inception network over all local devices, an extractor for `evaluation.extract`.

    Args:
      weights: A PyTorch file of the FID network, see `fetch_weights`. Nothing in it is executed.

    Returns:
      A function from uint8 images of (n, height, width, channels), 1 or 3 of them and any size, to
      `Activations`, whose `logits` it has made probabilities.

    Raises:
      ValueError: The file is not one of these weights.
    """
    return over_devices(_apply, variables(torch_file.read(weights), weights))


def _apply(variables: Any, images: jax.Array) -> Activations:
    colours = jnp.broadcast_to(images, (*images.shape[:3], 3))  # Grey is three equal channels.
    activations: Any = InceptionV3().apply(variables, colours)
    return activations._replace(logits=jax.nn.softmax(activations.logits))


def variables(tensors: Mapping[str, np.ndarray], source: Any = "the weights") -> Any:
    """Flax's variables of `InceptionV3` from PyTorch's tensors.

    Args:
      tensors: By PyTorch's names. Those the network has no use for, such as the last layer's bias,
        are not looked at.
      source: What an error names as theirs.

    Raises:
      ValueError: A tensor is missing or has another shape.
    """
    image = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    wanted = flatten_dict(jax.eval_shape(InceptionV3().init, jax.random.key(0), image))
    found = {}
    for path, leaf in wanted.items():
        name = ".".join((*path[1:-2], _NAMES[path[-2:]]))
        if name not in tensors:
            raise ValueError(f"{source} holds no {name}: {_OTHERS}")
        found[path] = _as_flax(tensors[name])
        if found[path].shape != leaf.shape:
            shapes = f"of {tensors[name].shape}, which here is {leaf.shape}"
            raise ValueError(f"{source} holds {name} {shapes}: {_OTHERS}")
    return unflatten_dict(found)


def _as_flax(tensor: np.ndarray) -> np.ndarray:
    """(out, in, height, width) becomes (height, width, in, out), and (out, in) (in, out)."""
    order = {4: (2, 3, 1, 0), 2: (1, 0)}.get(tensor.ndim, (0,))
    return np.ascontiguousarray(tensor.transpose(order[: tensor.ndim]), np.float32)


def fetch_weights(folder: Path, *, progress: bool = True) -> Path:
    """The file of the published weights, fetched into a folder unless it is there already.

    Args:
      folder: Made where missing.
      progress: Whether to show a progress bar.

    Returns:
      The file, whose checksum is the published one.

    Raises:
      ValueError: It cannot be fetched, or what arrived is another file.
    """
    path = folder / URL.rpartition("/")[2]
    if path.is_file():
        if checksum(path) == SHA256:
            return path
        logging.warning("%s is damaged: fetching it again", path)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with urllib.request.urlopen(URL, timeout=_SECONDS) as answer, atomic(path) as file:
            digest = _copy(answer, file, progress)
            if digest != SHA256:
                raise OSError(f"its checksum is {digest}, not {SHA256}")
    except OSError as error:
        raise ValueError(
            f"the weights of FID's network cannot be fetched from {URL} "
            f"({getattr(error, 'reason', error)}): give their file (--weights)"
        ) from error
    return path


def _copy(answer: Any, file: BinaryIO, progress: bool) -> str:
    """Writes what arrives, and returns its checksum."""
    total = int(answer.headers.get("Content-Length") or 0)
    digest = hashlib.sha256()
    bar = tqdm(total=total, desc="weights", unit="B", unit_scale=True, disable=not progress)
    with bar:
        while chunk := answer.read(_CHUNK):
            file.write(chunk)
            digest.update(chunk)
            bar.update(len(chunk))
    return digest.hexdigest()
