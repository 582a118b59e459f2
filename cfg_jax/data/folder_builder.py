"""The images of a folder or zip as a TFDS dataset, prepared once."""

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence

import grain
import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from cfg_jax.data.dataset import reason
from cfg_jax.data.pixels import decoded
from cfg_jax.data.records import undamaged
from cfg_jax.data.tree import Tree, class_of, digest, shown


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How files become pixels: see the fields of `folder.Folder`."""

    image_size: int
    channels: int
    background: tuple[int, ...]
    skip_bad: bool


@dataclasses.dataclass(frozen=True)
class _Decoder:
    """Reads images of one tree into pixels; None stands for a bad file that may be skipped."""

    tree: Tree
    settings: Decoding

    def __call__(self, file: str) -> np.ndarray | None:
        settings = self.settings
        try:
            return decoded(
                self.tree.read(file),
                image_size=settings.image_size,
                channels=settings.channels,
                background=settings.background,
            )
        except Exception as error:  # Damaged files make decoders raise anything.
            if settings.skip_bad:
                return None
            raise ValueError(
                f"{shown(self.tree.path)}: the image {shown(file)} cannot be read "
                f"({reason(error)}); skip_bad (the flag --skip-bad) leaves such files out"
            ) from error


@dataclasses.dataclass(frozen=True)
class _Examples:
    """One split's examples in order; their number gives TFDS's progress bar its total."""

    tree: Tree
    files: Sequence[str]
    shape: tuple[int, int, int]
    settings: Decoding

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[tuple[int, dict]]:
        bad = []
        labels = {folder: label for label, folder in enumerate(self.tree.folders)}
        for index, pixels in enumerate(self._pixels()):
            file = self.files[index]
            if pixels is None:
                bad.append(file)
                continue
            self._check_shape(file, pixels)
            label = {"label": labels[class_of(file)]} if labels else {}
            yield index, {"image": pixels, **label}
        if len(bad) == len(self.files):
            raise ValueError(f"{shown(self.tree.path)}: none of {len(bad)} images can be read")
        if bad:
            logging.warning(
                "%s: skipped %d of %d images as unreadable, such as %s",
                shown(self.tree.path),
                len(bad),
                len(self.files),
                shown(bad[0]),
            )

    def _pixels(self) -> Iterator[np.ndarray | None]:
        # Pillow decodes outside the GIL, so threads help; the short buffer bounds the memory.
        threads = os.cpu_count() or 1
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
        images = grain.MapDataset.source(self.files).map(_Decoder(self.tree, self.settings))
        yield from images.to_iter_dataset(options, allow_nones=True)

    def _check_shape(self, file: str, pixels: np.ndarray) -> None:
        if pixels.shape != self.shape:
            raise ValueError(
                f"{shown(self.tree.path)}: the image {shown(file)} is {pixels.shape[:2]} where the "
                f"first is {self.shape[:2]} (height, width); set image_size to bring all to one "
                "size"
            )


class ClassFolders(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """TFDS builder over the images of one or two trees; needs no TensorFlow.

    The dataset's name, and with it its directory, ends in a fingerprint of the images and the
    settings, so that a changed folder or another size is prepared anew. Labels are stored as
    numbers: TFDS would keep the classes' names as lines of a text file, stripped.
    """

    VERSION = tfds.core.Version("1.0.0")
    url_infos = None  # No downloads: TFDS would look for their checksums beside this file.

    def __init__(
        self,
        splits: Mapping[str, tuple[Tree, Sequence[str]]],
        settings: Decoding,
        *,
        data_dir: str,
    ):
        self._splits = splits
        self._settings = settings
        self._one = self._shape()
        self.name = self._fingerprinted_name()
        with undamaged(os.path.join(data_dir, self.name)):
            super().__init__(data_dir=data_dir)

    def _fingerprinted_name(self) -> str:
        stamps = [(split, tree.stamp(files)) for split, (tree, files) in self._splits.items()]
        stem = re.sub(r"\W+", "_", self._splits["train"][0].path.stem, flags=re.ASCII)
        return f"folder_{stem[:100]}_{digest((stamps, self._settings))}"

    def _info(self) -> tfds.core.DatasetInfo:
        # features.Image would ask for TensorFlow to encode; bytes are also the fastest to read.
        image = tfds.features.Tensor(shape=self._one, dtype=np.uint8, encoding="bytes")
        features = {"image": image}
        if self._splits["train"][0].folders:
            features["label"] = tfds.features.Scalar(dtype=np.int32)
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"Images of {shown(self._splits['train'][0].path)}.",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _shape(self) -> tuple[int, int, int]:
        """The shape of the images, as they are stored."""
        size = self._settings.image_size
        if size:
            return size, size, self._settings.channels
        tree, files = self._splits["train"]
        decoded = map(_Decoder(tree, self._settings), files)
        first = next((pixels for pixels in decoded if pixels is not None), None)
        if first is None:
            raise ValueError(f"{shown(tree.path)}: none of {len(files)} images can be read")
        return first.shape

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        return {
            split: _Examples(tree, files, self._one, self._settings)
            for split, (tree, files) in self._splits.items()
        }

    def _generate_examples(self):
        raise NotImplementedError("the splits are iterables already")
