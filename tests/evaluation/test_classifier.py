"""The scoring classifier: what it learns, what it gives, and when its file serves again."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.data import ArraySource, Dataset, Digits
from cfg_jax.data.samples import to_float, to_int16
from cfg_jax.data.spectrograms import spectrograms
from cfg_jax.evaluation import classifier as room
from cfg_jax.evaluation import load_arrays, moments, score, train_classifier
from cfg_jax.evaluation.features import local_shardings


def toy(seed, *, count=120, split="train"):
    """Noise, brighter in the left, middle or right of the image: three separable classes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int32) % 3
    images = rng.integers(0, 100, (count, 8, 9, 1))
    for image, label in zip(images, labels, strict=True):
        image[:, 3 * label : 3 * label + 3] += 100
    return dataset(images.astype(np.uint8), labels, split)


def dataset(x, labels, split, **facts):
    source = ArraySource({"x": x, "label": labels})
    return Dataset(
        source,
        x.shape[1:],
        ("left", "middle", "right"),
        "toy",
        split,
        source.specs,
        dtype=x.dtype.name,
        **facts,
    )


def noises(seed, *, count=120, split="train"):
    """Sounds: a tone of random pitch, a hiss, or a click at a random time."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int32) % 3
    pitch, time = rng.uniform(0.1, 0.4, (count, 1)), rng.integers(60, 80, (count, 1))
    place = np.arange(143)
    every = [
        0.5 * np.sin(2 * np.pi * pitch * place),
        0.2 * rng.normal(size=(count, 143)),
        0.9 * (place == time),
    ]
    x = np.choose(labels[:, None], every)
    return dataset(to_int16(x[..., None]), labels, split, rate=8000)


def flashes(seed, *, count=120, split="train"):
    """Videos of four frames, of which the first one, two or three are bright."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int32) % 3
    bright = 100 * (np.arange(4) <= labels[:, None])
    videos = rng.integers(0, 100, (count, 4, 8, 8, 1)) + bright[:, :, None, None, None]
    return dataset(videos.astype(np.uint8), labels, split, rate=8)


TRAIN, TEST = toy(0), toy(1, split="test")
OPTIONS = {"epochs": 10, "batch": 32, "progress": False}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache") / "made"


@pytest.fixture(scope="module")
def trained(cache):
    return train_classifier(TRAIN, TEST, cache=cache, **OPTIONS)


@pytest.fixture
def trainings(trained, monkeypatch):
    """Counts the trainings, each of which gives the parameters already trained."""
    calls = []

    def record(*arguments):
        calls.append(arguments)
        return trained.params

    monkeypatch.setattr(room, "_train", record)
    return calls


def test_learns_what_is_separable(trained):
    assert trained.held_out_accuracy == 1.0


@pytest.mark.slow
def test_digits_are_learnt_and_scored_as_what_they_are():
    train, test = (Digits().open(split) for split in ("train", "test"))
    classifier = train_classifier(train, test, progress=False)
    assert classifier.held_out_accuracy >= 0.975
    images, labels = load_arrays(test)
    real = moments(classifier.features_and_probabilities(load_arrays(train)[0])[0])
    clean = score(images, labels, classifier, real)
    assert clean.label_accuracy == classifier.held_out_accuracy
    assert 9.0 < clean.inception_score < 10.0
    noise = np.random.default_rng(0).normal(size=images.shape)
    noisy = [score(to_float(images) + s * noise, labels, classifier, real) for s in (0.3, 1.0)]
    distances = [s.frechet_distance for s in (clean, *noisy)]
    assert distances == sorted(distances)
    assert distances[0] < 0.1 * distances[2]


def test_probabilities_are_the_softmax_of_the_networks_logits(trained):
    images, _ = load_arrays(TEST)
    features, probabilities = trained.features_and_probabilities(images)
    logits, expected = trained.module.apply(trained.params, jnp.asarray(to_float(images)))
    exponentials = np.exp(np.asarray(logits, np.float64))
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        probabilities, exponentials / exponentials.sum(-1, keepdims=True), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("count", [1, 256, 300])
def test_batches_of_any_number_give_each_image_its_own_features(trained, count):
    images = np.resize(load_arrays(TEST)[0], (count, 8, 9, 1))
    images[-1] = 255
    features, probabilities = trained.features_and_probabilities(images)
    assert features.shape == (count, 64)
    assert probabilities.shape == (count, 3)
    last, _ = trained.features_and_probabilities(images[-1:])
    np.testing.assert_allclose(features[-1:], last, rtol=1e-5, atol=1e-6)


def test_all_batches_compile_once(trained):
    trained.features_and_probabilities(np.zeros((2, 8, 9, 1)))
    before = room._apply._cache_size()
    for images in (np.zeros((700, 8, 9, 1)), np.zeros((3, 8, 9, 1), np.uint8)):
        trained.features_and_probabilities(images)
    assert room._apply._cache_size() == before


def test_floats_and_bytes_are_the_same_images_and_overshoot_is_clipped(trained):
    images, _ = load_arrays(TEST)
    expected, _ = trained.features_and_probabilities(images)
    floats, _ = trained.features_and_probabilities(to_float(images))
    np.testing.assert_array_equal(floats, expected)
    black_and_white = np.where(images > 100, 1.0, -1.0)
    expected, _ = trained.features_and_probabilities(black_and_white)
    beyond, _ = trained.features_and_probabilities(1.5 * black_and_white)
    np.testing.assert_array_equal(beyond, expected)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 8, 8, 1)), "shape"),
        (np.zeros((8, 9, 1)), "shape"),
        (np.zeros((0, 8, 9, 1)), "shape"),
        (np.full((2, 8, 9, 1), np.nan), "NaN"),
        (np.full((2, 8, 9, 1), np.inf), "NaN"),
    ],
)
def test_images_that_cannot_be_scored_are_refused(trained, images, message):
    with pytest.raises(ValueError, match=message):
        trained.features_and_probabilities(images)


def test_shifts_move_images_by_at_most_an_eighth():
    image = np.arange(16 * 8, dtype=np.uint8).reshape(1, 16, 8, 1)
    copies = jnp.asarray(np.repeat(image, 300, axis=0))
    shifted = np.asarray(room._shifted(jax.random.key(0), copies))
    padded = np.pad(image[0, ..., 0], ((2, 2), (1, 1)), mode="edge")
    possible = {padded[y : y + 16, x : x + 8].tobytes() for y in range(5) for x in range(3)}
    assert {one.tobytes() for one in shifted} == possible


def test_a_wide_image_moves_no_further_sideways_than_up():
    """Such as four frames side by side: an eighth of the width would be half a frame."""
    image = np.arange(8 * 32, dtype=np.uint8).reshape(1, 8, 32, 1)
    copies = jnp.asarray(np.repeat(image, 200, axis=0))
    shifted = np.asarray(room._shifted(jax.random.key(0), copies))
    padded = np.pad(image[0, ..., 0], 1, mode="edge")
    possible = {padded[y : y + 8, x : x + 32].tobytes() for y in range(3) for x in range(3)}
    assert {one.tobytes() for one in shifted} == possible


@pytest.fixture(scope="module", params=[noises, flashes])
def other(request):
    """Of sounds or videos: the held-out ones, and a classifier."""
    held_out = request.param(1, split="test")
    return held_out, train_classifier(request.param(0), held_out, **(OPTIONS | {"epochs": 20}))


def side_by_side(x):
    """The frames of each video in a row."""
    return np.concatenate(list(x.swapaxes(0, 1)), axis=2)


@pytest.mark.slow
def test_sounds_and_videos_are_scored_as_what_a_person_sees(other):
    """Spectrograms, coarser than they are drawn, and frames side by side."""
    held_out, classifier = other
    assert classifier.held_out_accuracy == 1.0
    x, labels = load_arrays(held_out)
    features, _ = classifier.features_and_probabilities(x)
    pictures = spectrograms(x, window=64, width=32) if x.dtype == np.int16 else side_by_side(x)
    assert pictures.shape[-1] == 1
    _, expected = classifier.module.apply(classifier.params, jnp.asarray(to_float(pictures)))
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    # Samples are floats, and may lie a little beyond what can be stored.
    floats, _ = classifier.features_and_probabilities(to_float(x))
    np.testing.assert_array_equal(floats, features)
    real = moments(features)
    clean = score(to_float(x), labels, classifier, real)
    assert clean.label_accuracy == 1.0
    assert clean.frechet_distance == pytest.approx(0.0, abs=1e-4)
    assert clean.inception_score > 2.8
    noise = 0.5 * np.random.default_rng(0).normal(size=x.shape)
    assert score(to_float(x) + noise, labels, classifier, real).frechet_distance > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [lambda x: x[:, :-1], lambda x: x[..., 0], lambda x: x / np.nan])
def test_sounds_and_videos_that_cannot_be_scored_are_refused(other, wrong):
    held_out, classifier = other
    x = to_float(load_arrays(held_out)[0])
    with pytest.raises(ValueError, match=r"(sound|video)s (must have shape|hold NaN)"):
        classifier.features_and_probabilities(wrong(x))


def test_the_devices_change_no_parameter(trained):
    """Of 8 devices each has 4 of 32 examples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "local_shardings", lambda count=None: local_shardings(1))
        alone = train_classifier(TRAIN, TEST, **(OPTIONS | {"epochs": 1}))
    shared = train_classifier(TRAIN, TEST, **(OPTIONS | {"epochs": 1}))
    for a, b in zip(jax.tree.leaves(alone.params), jax.tree.leaves(shared.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_the_same_classifier_is_read_from_its_file(trained, trainings, cache):
    again = train_classifier(TRAIN, TEST, cache=cache, **OPTIONS)
    assert trainings == []
    assert again.held_out_accuracy == trained.held_out_accuracy
    images, _ = load_arrays(TEST)
    for a, b in zip(
        again.features_and_probabilities(images),
        trained.features_and_probabilities(images),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def changed(dataset, *, pixel=0, label=0):
    images, labels = (array.copy() for array in load_arrays(dataset))
    images[7, 2, 3, 0] += pixel
    labels[7] = (labels[7] + label) % 3
    return dataclasses.replace(dataset, source=ArraySource({"x": images, "label": labels}))


@pytest.mark.parametrize(
    ("train", "test", "options"),
    [
        (changed(TRAIN, pixel=1), TEST, {}),
        (changed(TRAIN, label=1), TEST, {}),
        (TRAIN, changed(TEST, pixel=1), {}),
        (TRAIN, changed(TEST, label=1), {}),
        (toy(0, count=119), TEST, {}),
        (dataclasses.replace(TRAIN, name="other"), TEST, {}),
        (TRAIN, TEST, {"seed": 1}),
        (TRAIN, TEST, {"epochs": 11}),
        (TRAIN, TEST, {"batch": 16}),
        (TRAIN, TEST, {"learning_rate": 1e-3}),
    ],
)
def test_other_data_or_settings_train_again_beside_it(trainings, cache, train, test, options):
    files = set(cache.iterdir())
    train_classifier(train, test, cache=cache, **(OPTIONS | options))
    assert len(trainings) == 1
    assert len(set(cache.iterdir()) - files) == 1
    train_classifier(TRAIN, TEST, cache=cache, **OPTIONS)
    assert len(trainings) == 1


def flip(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage", [flip, lambda c: c[: len(c) // 2], lambda c: b"", lambda c: b"not an archive"]
)
def test_a_damaged_file_is_trained_again(trainings, tmp_path, damage):
    train_classifier(TRAIN, TEST, cache=tmp_path, **OPTIONS)
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    train_classifier(TRAIN, TEST, cache=tmp_path, **OPTIONS)
    assert len(trainings) == 2
    train_classifier(TRAIN, TEST, cache=tmp_path, **OPTIONS)
    assert len(trainings) == 2


def test_another_classifiers_file_under_this_name_is_not_believed(trainings, tmp_path):
    train_classifier(TRAIN, TEST, cache=tmp_path, **OPTIONS)
    (path,) = tmp_path.iterdir()
    train_classifier(TRAIN, TEST, cache=tmp_path, seed=1, **OPTIONS)
    (other,) = set(tmp_path.iterdir()) - {path}
    other.replace(path)
    train_classifier(TRAIN, TEST, cache=tmp_path, **OPTIONS)
    assert len(trainings) == 3


def test_without_a_cache_nothing_is_written(trainings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train_classifier(TRAIN, TEST, **OPTIONS)
    assert list(tmp_path.iterdir()) == []


def test_examples_read_one_by_one_are_the_arrays():
    class OneByOne:
        def __len__(self):
            return len(TEST.source)

        def __getitem__(self, index):
            return TEST.source[index]

    images, labels = load_arrays(dataclasses.replace(TEST, source=OneByOne()))
    np.testing.assert_array_equal(images, TEST.source.arrays["x"])
    np.testing.assert_array_equal(labels, TEST.source.arrays["label"])


EMPTY = ArraySource({"x": np.zeros((0, 8, 9, 1), np.uint8), "label": np.zeros(0, np.int32)})


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (dataclasses.replace(TRAIN, class_names=()), TEST, "toy has no labels"),
        (TRAIN, dataclasses.replace(TEST, class_names=("a", "b", "c")), "differ"),
        (TRAIN, dataclasses.replace(TEST, shape=(8, 8, 1)), "differ"),
        (TRAIN, dataclasses.replace(TEST, source=EMPTY), "test split of toy is empty"),
    ],
)
def test_data_that_cannot_train_a_classifier_is_refused(train, test, message):
    with pytest.raises(ValueError, match=message):
        train_classifier(train, test)
