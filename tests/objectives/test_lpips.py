"""LPIPS against a second implementation in float64, and every mistake in its files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from torch_files import save_zip

from cfg_jax.objectives import LPIPS, lpips
from cfg_jax.objectives.lpips import converted

RNG = np.random.default_rng(0)
SLICES = {"net.slice1": (0, 2), "net.slice2": (5, 7), "net.slice3": (10, 12, 14)}
SLICES |= {"net.slice4": (17, 19, 21), "net.slice5": (24, 26, 28)}
NARROW = (12, 13, 14, 15, 16)


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """A VGG16 of few channels, which costs next to nothing."""
    monkeypatch.setattr(lpips, "WIDTHS", NARROW)


def random_vgg(widths):
    """Random weights by torchvision's names, of which activations keep their size."""
    found, below = {}, 3
    for numbers, width in zip(SLICES.values(), widths, strict=True):
        for number in numbers:
            spread = np.sqrt(2 / (9 * below))
            kernel = spread * RNG.standard_normal((width, below, 3, 3), np.float32)
            found[f"features.{number}.weight"] = kernel
            found[f"features.{number}.bias"] = 0.1 * RNG.standard_normal(width, np.float32)
            below = width
    return found


def random_lins(widths):
    return {
        f"lin{level}.model.1.weight": RNG.random((1, width, 1, 1), np.float32)
        for level, width in enumerate(widths)
    }


@pytest.fixture(scope="module")
def vgg():
    return random_vgg(NARROW)


@pytest.fixture(scope="module")
def lins():
    return random_lins(NARROW)


@pytest.fixture
def whole(vgg, lins):
    """The state dictionary of the package lpips, which holds the channels' weights twice."""
    found = {"scaling_layer.shift": np.zeros((1, 3, 1, 1), np.float32)}
    for room, numbers in SLICES.items():
        for number in numbers:
            for part in ("weight", "bias"):
                found[f"{room}.{number}.{part}"] = vgg[f"features.{number}.{part}"]
    again = {name.replace("lin", "lins.", 1): lin for name, lin in lins.items()}
    return found | lins | again


@pytest.fixture
def metric(vgg, lins):
    return LPIPS(path="unread", weights=converted(vgg, lins))


def convolved(x, kernel, bias):
    """torch's convolution with padding 1, (batch, channels, height, width), in float64."""
    height, width = x.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    total = np.zeros((len(x), len(kernel), height, width))
    for i in range(3):
        for j in range(3):
            seen = padded[:, :, i : i + height, j : j + width]
            total += np.einsum(
                "oc,bchw->bohw", kernel[:, :, i, j].astype(float), seen, optimize=True
            )
    return total + bias[:, None, None]


def by_the_paper(vgg, lins, x, y):
    """Equation 1, picture by picture as lpips does it, in float64."""
    shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
    features = []
    for h in (x, y):
        h = ((h.astype(float) - shift) / scale).transpose(0, 3, 1, 2)
        found = []
        for level, numbers in enumerate(SLICES.values()):
            if level:
                batch, channels, height, width = h.shape
                even = h[:, :, : height // 2 * 2, : width // 2 * 2]
                split = even.reshape(batch, channels, height // 2, 2, width // 2, 2)
                h = split.max(axis=(3, 5))
            for number in numbers:
                name = f"features.{number}"
                h = np.maximum(convolved(h, vgg[f"{name}.weight"], vgg[f"{name}.bias"]), 0)
            found.append(h / (np.sqrt((h**2).sum(axis=1, keepdims=True)) + 1e-10))
        features.append(found)
    total = 0
    for level, (f, g) in enumerate(zip(*features, strict=True)):
        weight = lins[f"lin{level}.model.1.weight"][0, :, 0, 0].astype(float)
        total = total + np.einsum("c,bchw->bhw", weight, (f - g) ** 2).mean(axis=(1, 2))
    return total


measured = jax.jit(lambda metric, x, y: metric(x, y))
slope_of = jax.jit(jax.value_and_grad(lambda x, metric, y: metric(x, y).sum()))


def pictures():
    """Two batches of two, of sides that do not halve evenly."""
    return map(jnp.asarray, RNG.uniform(-1, 1, (2, 2, 35, 18, 3)).astype(np.float32))


def test_the_distance_is_the_papers(metric, vgg, lins):
    x, y = pictures()
    got = measured(metric, x, y)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, by_the_paper(vgg, lins, *map(np.asarray, (x, y))), rtol=1e-4)


@pytest.mark.slow
def test_the_distance_is_the_papers_with_all_channels_of_vgg16(monkeypatch):
    widths = (64, 128, 256, 512, 512)
    monkeypatch.setattr(lpips, "WIDTHS", widths)
    vgg, lins = random_vgg(widths), random_lins(widths)
    x, y = (picture[:1, :18, :17] for picture in pictures())
    got = measured(LPIPS(path="unread", weights=converted(vgg, lins)), x, y)
    np.testing.assert_allclose(got, by_the_paper(vgg, lins, *map(np.asarray, (x, y))), rtol=1e-4)


def test_the_channels_are_vgg16s(monkeypatch):
    monkeypatch.undo()
    assert lpips.WIDTHS == (64, 128, 256, 512, 512)


def test_equal_pictures_have_no_distance_and_it_is_symmetric(metric):
    x, y = pictures()
    np.testing.assert_allclose(measured(metric, x, x), jnp.zeros(2), atol=1e-10)
    there, back, turned = (measured(metric, *pair) for pair in ((x, y), (y, x), (x[::-1], y[::-1])))
    assert np.all(there > 0.1)
    np.testing.assert_allclose(there, back, rtol=1e-5)
    np.testing.assert_allclose(there, turned[::-1], rtol=1e-5)  # each picture's is its own


def test_pictures_within_0_and_1_read_too_low(metric):
    x, y = pictures()
    assert np.all(measured(metric, (x + 1) / 2, (y + 1) / 2) < 0.8 * measured(metric, x, y))


def test_grey_is_three_equal_colours_and_half_types_are_compared_in_float32(metric):
    x, y = (picture[..., :1].astype(jnp.bfloat16) for picture in pictures())
    colours = [jnp.repeat(picture, 3, axis=-1).astype(jnp.float32) for picture in (x, y)]
    got = measured(metric, x, y)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, measured(metric, *colours), rtol=1e-5)


def test_the_gradient_is_finite_where_all_features_are_zero(vgg, lins):
    dead = {name: np.zeros_like(v) if "bias" in name else v for name, v in vgg.items()}
    metric = LPIPS(path="unread", weights=converted(dead, lins))
    x, y = pictures()
    zero = jnp.broadcast_to(jnp.array([-0.030, -0.088, -0.188]), x.shape)
    for black in (zero, -jnp.ones_like(x)):
        for other in (y, black):
            value, slope = slope_of(black, metric, other)
            assert np.isfinite(value)
            assert np.all(np.isfinite(slope))


def test_the_gradient_is_the_slope(metric):
    x, y = pictures()
    _, slope = slope_of(x, metric, y)
    steepness = float(jnp.sqrt(jnp.sum(slope**2)))
    step = 1e-2 * slope / steepness
    ahead, behind = (float(measured(metric, x + by, y).sum()) for by in (step, -step))
    assert ahead - behind == pytest.approx(2e-2 * steepness, rel=0.05)


def test_every_layout_of_the_files_gives_the_same_weights(metric, tmp_path, vgg, lins, whole):
    classifier = {"classifier.0.weight": np.zeros((2, 2), np.float32)}  # torchvision's last layers
    save_zip(tmp_path / "vgg16.pth", vgg | classifier)
    save_zip(tmp_path / "lins.pth", lins)
    safetensors.numpy.save_file(whole, tmp_path / "lpips.safetensors")
    apart = LPIPS(path=str(tmp_path / "vgg16.pth"), lins=str(tmp_path / "lins.pth")).ready()
    together = LPIPS(path=str(tmp_path / "lpips.safetensors")).ready()
    for read in (apart, together):
        assert sorted(read.weights) == sorted(metric.weights)
        jax.tree.map(np.testing.assert_array_equal, read.weights, metric.weights)


def test_the_weights_are_its_leaves(metric):
    leaves = jax.tree.leaves(metric)
    assert len(leaves) == 13 * 2 + 5
    assert not jax.tree.leaves(LPIPS(path="unread"))


def test_what_is_wrong_with_a_file_is_one_line_that_names_it(tmp_path, vgg, lins):
    def refused(message, path, **fields):
        with pytest.raises(ValueError, match=message) as error:
            LPIPS(path=str(path), **fields).ready()
        assert "\n" not in str(error.value)

    save_zip(tmp_path / "vgg16.pth", vgg)
    refused("nowhere.pth does not exist", tmp_path / "nowhere.pth")
    refused("nowhere.safetensors does not exist", tmp_path / "nowhere.safetensors")
    refused("vgg16.pth: .* lack lin0.model.1.weight", tmp_path / "vgg16.pth")
    (tmp_path / "text.pth").write_text("no weights")
    refused("text.pth is damaged", tmp_path / "text.pth")
    (tmp_path / "text.safetensors").write_text("no weights")
    refused("text.safetensors is damaged", tmp_path / "text.safetensors")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("features.28.bias", None, "lack features.28.bias or net.slice5.28.bias"),
        ("features.5.weight", lambda w: w[:, :4], r"features.5.weight of \(13, 4, 3, 3\), which"),
        ("features.0.bias", lambda w: w + np.inf, "features.0.bias, which is not finite"),
        ("lin3.model.1.weight", lambda w: w - 1, "lin3.model.1.weight must hold no negative"),
        ("lin4.model.1.weight", lambda w: w[:, :3], r"lin4.model.1.weight of \(1, 3, 1, 1\)"),
    ],
)
def test_wrong_weights_are_refused(vgg, lins, name, change, message):
    tensors = vgg | lins
    value = tensors.pop(name)
    if change:
        tensors[name] = change(value)
    with pytest.raises(ValueError, match=message):
        converted(tensors)


def test_pictures_that_cannot_be_compared_are_refused(metric):
    for shapes in (((1, 15, 16, 3), (1, 15, 16, 3)), ((1, 16, 16, 3), (1, 16, 16, 1))):
        with pytest.raises(ValueError, match="of 16 pixels a side or more, got"):
            metric(*map(jnp.zeros, shapes))
    with pytest.raises(ValueError, match="the weights in unread are not read yet"):
        LPIPS(path="unread")(jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, 16, 16, 3)))
    with pytest.raises(ValueError, match="path must name a file of the weights"):
        LPIPS()
