"""Scikit-learn's 1,797 real handwritten digits, 8×8 grey, as a TFDS dataset."""

import numpy as np
import tensorflow_datasets as tfds


class Digits(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """TFDS builder of scikit-learn's digits; needs neither a download nor TensorFlow.

    The grey levels 0..16 become 0..255 (uint8, rounded). The splits `train` (1,437 images) and
    `test` (360) are fixed and stratified by class, each in scikit-learn's order.
    """

    VERSION = tfds.core.Version("1.0.0")
    url_infos = None  # No downloads: TFDS would look for their checksums beside this file.

    def _info(self) -> tfds.core.DatasetInfo:
        # features.Image would ask for TensorFlow to encode; bytes are also the fastest to read.
        image = tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8, encoding="bytes")
        label = tfds.features.ClassLabel(names=[str(digit) for digit in range(10)])
        return tfds.core.DatasetInfo(
            builder=self,
            description="Handwritten digits, 8x8, from scikit-learn.",
            features=tfds.features.FeaturesDict({"image": image, "label": label}),
            homepage="https://archive.ics.uci.edu/dataset/80",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
        train, test = train_test_split(
            np.arange(len(images)), test_size=0.2, stratify=digits.target, random_state=0
        )
        return {
            "train": self._generate_examples(images, digits.target, np.sort(train)),
            "test": self._generate_examples(images, digits.target, np.sort(test)),
        }

    def _generate_examples(self, images, labels, indices):
        for index in indices:
            yield int(index), {"image": images[index], "label": int(labels[index])}
