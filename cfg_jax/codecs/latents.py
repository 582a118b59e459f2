"""What an autoencoder says of all examples of some data, kept on disk, and what follows from it.

A folder of the user's cache holds it, named after the codec's parameters and the data: another
codec and other data have another folder. Files are compared with their checksums before they are
read; damaged ones are made again.
"""

import contextlib
import functools
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from cfg_jax.parts import translate
from cfg_jax.runtime import bulk, files, manifest
from cfg_jax.runtime.checkpoints import Checkpoints
from cfg_jax.runtime.notes import Bar, note

BATCH = 64
"""Examples that are encoded at a time."""

LATENTS, MIRRORED = "latents", "latents_mirrored"
"""Arrays of an example: what the codec says of it, and of its mirror image."""


class Kept(NamedTuple):
    """What a codec says of data.

    Attributes:
      arrays: `LATENTS`, and `MIRRORED` for data that are mirrored at random; float32 (n, ...).
      scale: One over the standard deviation of each channel of ẑ, over all examples and places.
      shift: Each channel's mean.
      folder: Where they lie.
    """

    arrays: dict[str, np.ndarray]
    scale: tuple[float, ...]
    shift: tuple[float, ...]
    folder: Path


def of_run(path: str, like: Any) -> Any:
    """The variables of a codec among those that a run trained, its first moving average.

    Args:
      path: The work directory.
      like: Their shapes.

    Raises:
      ValueError: There is no such run, or it did not train such a codec.
    """
    workdir = Path(os.path.expanduser(path))
    if not (workdir / "checkpoints").is_dir():
        raise ValueError(f"config.codec.run: {path} is no work directory of a trained codec")
    tree = {"0": {name: {"codec": shapes} for name, shapes in like.items()}}
    refused: list[str] = []
    with Checkpoints(workdir) as checkpoints:
        try:
            found = checkpoints.restore_newest_ema(
                tree, report=refused.append, within="0/params/codec/"
            )
        except ValueError as error:
            why = refused[0].partition(";")[0] if refused else error
            raise ValueError(
                f"config.codec.run: {path} did not train a codec as config.codec describes it: "
                f"{why}"
            ) from error
    for line in refused:
        note(line)
    if found is None:
        raise ValueError(f"config.codec.run: {path} has no checkpoint yet")
    return {name: held["codec"] for name, held in found[1]["0"].items()}


def statistics(codec: Any, variables: Any, data: Any) -> dict[str, jax.Array]:
    """Scale and shift of z over data, as variables of the codec."""
    found = kept(codec, variables, data)
    return {name: jnp.asarray(getattr(found, name), jnp.float32) for name in ("scale", "shift")}


def attached(codec: Any, variables: Any, data: Any) -> Any:
    """The data, each example with what the codec says of it."""
    found = kept(codec, variables, data)
    paths = {name: str(found.folder / f"{name}.npy") for name in found.arrays}
    return data.beside(paths)


def kept(codec: Any, variables: Any, data: Any) -> Kept:
    """What a codec says of data: read, or computed and kept if this is the first time.

    Args:
      codec: An autoencoder.
      variables: Its variables.
      data: A `Dataset`.

    Raises:
      ValueError: The data show an example in many ways, or nothing can be kept.
    """
    if data.varies:
        raise ValueError(
            f"latents of {data.name} cannot be kept: it shows each picture in many ways (crop, "
            "buckets); set config.codec.cached=False, and give config.codec.scale"
        )
    variables = {name: held for name, held in variables.items() if name != LATENTS}
    names = (LATENTS, MIRRORED) if data.flip else (LATENTS,)
    digest = _digest(codec, variables, data, names)
    folder = files.cache() / "latents" / digest[:24]
    found = _read(folder, digest, names)
    if found is None:
        _write(folder, digest, codec, variables, data, names)
        found = _read(folder, digest, names)
        if found is None:
            raise ValueError(f"latents could not be kept in {folder}")
    return found


def _digest(codec: Any, variables: Any, data: Any, names: tuple[str, ...]) -> str:
    """A digest of all that decides what is kept."""
    plain = codec.clone(run="", cached=True, scale=None, shift=0.0, parent=None)
    described = {
        "codec": repr(plain),
        "variables": manifest.identity(variables),
        "data": [data.name, data.split, len(data.source), data.shape, data.fingerprint],
        "examples": data.digest(),
        "arrays": names,
    }
    return _sum(described)


def _read(folder: Path, digest: str, names: tuple[str, ...]) -> Kept | None:
    """What is kept in a folder; None where there is none or, with a warning, it is damaged."""
    if not os.path.lexists(folder):
        return None
    try:
        known = files.read_object(folder / "manifest.json")
        if known.pop("sum") != _sum(known) or known["digest"] != digest:
            raise ValueError("its manifest was changed")
        arrays = {}
        for name in names:
            path = folder / f"{name}.npy"
            files.check_regular(path)
            if files.checksum(path) != known["files"][name]:
                raise ValueError(f"{path.name} was changed")
            arrays[name] = np.load(path, mmap_mode="r", allow_pickle=False)
        return Kept(arrays, tuple(known["scale"]), tuple(known["shift"]), folder)
    except (*files.DAMAGED_NPZ, KeyError) as error:
        logging.warning("%s is damaged (%s): encoding again", folder, error)
        _remove(folder)
        return None


def _remove(place: Path) -> None:
    """Removes what stands in the place of latents; what cannot be removed stays."""
    if os.path.isdir(place) and not os.path.islink(place):
        shutil.rmtree(place, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            place.unlink()


def _sum(known: dict[str, Any]) -> str:
    """A checksum of what a manifest says."""
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def _write(
    folder: Path, digest: str, codec: Any, variables: Any, data: Any, names: tuple[str, ...]
) -> None:
    """Encodes all examples into a folder, which takes its name when all is written."""
    place = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        seen, sums = 0, np.zeros((2, codec.z_channels))
        count, one = len(data.source), jax.ShapeDtypeStruct((1, *data.shape), np.float32)
        describe = functools.partial(translate, codec, "described", variables)
        shape = jax.eval_shape(describe, one).shape[1:]
        with Bar(total=count * len(names), desc=f"encode {data.name}", unit="image") as bar:
            for name in names:
                held = np.lib.format.open_memmap(
                    place / f"{name}.npy", "w+", np.float32, (count, *shape)
                )
                for start, here, index in bulk.full_batches(count, min(BATCH, count)):
                    x = data.floats(index)
                    said = np.asarray(describe(x[..., ::-1, :] if name == MIRRORED else x))[:here]
                    held[start : start + here] = said
                    mean, variance = codec.spread(said)
                    places = tuple(range(mean.ndim - 1))
                    squares = (np.square(mean) + variance).sum(places)
                    sums += np.stack([mean.sum(places), squares])
                    seen += mean[..., 0].size
                    bar.update(here)
                held.flush()
        shift, square = sums / seen
        known = {
            "digest": digest,
            "scale": _rounded(1.0 / np.sqrt(np.maximum(square - shift**2, 1e-12))),
            "shift": _rounded(shift),
            "files": {name: files.checksum(place / f"{name}.npy") for name in names},
        }
        known["sum"] = _sum(known)
        (place / "manifest.json").write_text(json.dumps(known, indent=2), encoding="utf-8")
        try:
            place.rename(folder)
        except OSError:  # another process was faster
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _rounded(numbers: np.ndarray) -> list[float]:
    """Numbers to five digits, which another processor finds too."""
    return [float(f"{number:.5g}") for number in numbers]
