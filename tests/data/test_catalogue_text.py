"""Captions in datasets of TFDS's catalogue, in each of the ways that they lie there."""

import contextlib
import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from cfg_jax.data import UnreadableError, batches
from cfg_jax.data import dataset as datasets


def _png(level):
    Image.fromarray(np.full((4, 4, 3), level, np.uint8)).save(file := io.BytesIO(), "PNG")
    return io.BytesIO(file.getvalue())


class Captioning(tfds.core.GeneratorBasedBuilder):
    """As the catalogue's: one caption, a sequence of them, and captions beside numbers."""

    VERSION = tfds.core.Version("1.0.0")
    url_infos = None
    several = (("first of {}", "ünïcode 🙂 {}"), ("first of {}",))

    def _info(self):
        text = tfds.features.Text()
        features = {
            "image": tfds.features.Image(shape=(4, 4, 3)),
            "caption": text,
            "several": tfds.features.Sequence(tfds.features.Text()),
            "captions": tfds.features.Sequence({"id": np.int64, "text": tfds.features.Text()}),
            "about": {"title": tfds.features.Text(), "rank": np.int64},
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(range(6)), "test": self._generate_examples([9])}

    def _generate_examples(self, numbers):
        for number in numbers:
            said = [text.format(number) for text in self.several[number % 2]]
            yield (
                number,
                {
                    "image": _png(number),
                    "caption": f"level {number}",
                    "several": said,
                    "captions": [{"id": 10 + n, "text": text} for n, text in enumerate(said)],
                    "about": {"title": f"title {number}", "rank": number},
                },
            )


class Silent(Captioning):
    several = (("first of {}",), ())


def wanted(text):
    several = [tuple(t.format(n) for t in Captioning.several[n % 2]) for n in range(6)]
    return {
        "caption": [(f"level {n}",) for n in range(6)],
        "about/title": [(f"title {n}",) for n in range(6)],
        "several": several,
        "captions/text": several,
    }[text]


@pytest.mark.parametrize("text", ["caption", "several", "captions/text", "about/title"])
@pytest.mark.parametrize("in_memory", [True, False])
def test_a_feature_of_text_is_each_examples_captions(prepared, monkeypatch, text, in_memory):
    if not in_memory:
        monkeypatch.setattr(datasets, "IN_MEMORY", 0)
    settings = prepared(Captioning, text=text)
    data = settings.open("train")
    assert data.facts.texts == settings.peek().texts == ("text",)
    examples = [data.source[index] for index in range(6)]
    assert [example["text"] for example in examples] == wanted(text)
    assert [int(example["x"][0, 0, 0]) for example in examples] == list(range(6))
    assert list(data.captions("text")) == [one for texts in wanted(text) for one in texts]
    with contextlib.closing(batches(data, batch_size=6, seed=0)) as stream:
        batch = next(stream)
    for x, said in zip(batch["x"], batch["text"], strict=True):
        assert str(said) in wanted(text)[x[0, 0, 0]]


def test_without_its_name_no_feature_is_text(prepared):
    data = prepared(Captioning).open("train")
    assert data.facts.texts == ()
    assert set(data.source[0]) == {"x"}


@pytest.mark.parametrize("text", ["captions", "captions/id", "image", "none", "about/rank", "/"])
def test_a_feature_that_is_none_of_text_is_refused(prepared, text):
    line = "captioning has no feature .* of text: it has about/title, caption, captions/text, seve"
    settings = prepared(Captioning, text=text)
    for opened in (lambda: settings.open("train"), settings.peek):
        with pytest.raises(ValueError, match=line):
            opened()


def test_an_example_without_captions_is_named_or_left_out(prepared):
    settings = prepared(Silent, text="several")
    with pytest.raises(UnreadableError, match=r"silent train: example 1 .*it has no caption"):
        settings.open("train")
    assert len(prepared(Silent, text="several", skip_bad=True).open("train").source) == 3
