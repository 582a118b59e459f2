"""FID's network from its file: the features of its images, and what is refused."""

import hashlib
import io
import re
import types
import urllib.request

import jax.numpy as jnp
import numpy as np
import pytest
from inception_network import Network, random_tensors
from torch_files import save_plain

from cfg_jax.evaluation import extract, fetch_weights, load_inception
from cfg_jax.evaluation import inception as room


@pytest.fixture(scope="module")
def tensors():
    return random_tensors()


@pytest.fixture(scope="module")
def weights(tensors, tmp_path_factory):
    """As the published file: without an archive, and with tensors that nothing here needs."""
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    unused = {
        "fc.bias": np.ones(1008, np.float32),
        "Mixed_5b.branch1x1.bn.num_batches_tracked": np.zeros((), np.int64),
    }
    save_plain(path, tensors | unused)
    return path


@pytest.mark.slow
def test_features_of_a_file_of_weights_are_numpys(tensors, weights):
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (2, 32, 24, 3), dtype=np.uint8)
    images[1] = images[1, ..., :1]  # Grey.
    network = load_inception(weights)
    found = extract(network, [images], count=2, progress=False)
    pool, spatial, logits = Network(tensors)(images)
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    for ours, want in (
        (found.pool, pool),
        (found.spatial, spatial),
        (found.logits, exponentials / exponentials.sum(1, keepdims=True)),
    ):
        assert np.std(want) > 1e-5
        np.testing.assert_allclose(ours, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_grey_images_are_three_equal_channels(monkeypatch):
    seen = []
    monkeypatch.setattr(room.InceptionV3, "apply", lambda self, v, x: seen.append(x) or FOUND)
    grey = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 1), dtype=np.uint8)
    room._apply({}, jnp.asarray(grey))
    np.testing.assert_array_equal(seen[0], np.repeat(grey, 3, axis=-1))


FOUND = room.Activations(np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Mixed_6a.branch3x3.bn.running_var": None}, "holds no Mixed_6a.branch3x3.bn.running_var"),
        (
            {"fc.weight": np.zeros((1000, 2048))},
            "fc.weight of (1000, 2048), which here is (2048, 1008)",
        ),
        ({"Mixed_5b.branch1x1.conv.weight": np.zeros((64, 192, 3, 3))}, "(64, 192, 3, 3)"),
    ],
)
@pytest.mark.slow
def test_other_weights_are_refused(tensors, change, message):
    changed = {k: v for k, v in (tensors | change).items() if v is not None}
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        room.variables(changed, "file.pth")
    assert str(error.value).startswith("file.pth holds")
    assert "not the weights of FID's network" in str(error.value)


CONTENT = np.random.default_rng(0).bytes(3_000_000)


@pytest.fixture
def published(monkeypatch, tmp_path):
    """A file at the published address, with its checksum; and how often it was asked for."""
    place = tmp_path / "server" / "weights.pth"
    place.parent.mkdir()
    place.write_bytes(CONTENT)
    asked, original = [], urllib.request.urlopen
    monkeypatch.setattr(room, "URL", place.as_uri())
    monkeypatch.setattr(room, "SHA256", hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setattr(
        urllib.request, "urlopen", lambda url, **o: asked.append(url) or original(url, **o)
    )
    return place, asked


def test_weights_are_fetched_once(published, tmp_path, capsys):
    path = fetch_weights(tmp_path / "cache")
    assert path.read_bytes() == CONTENT
    assert "3.00M/3.00M" in capsys.readouterr().err
    assert fetch_weights(tmp_path / "cache") == path
    assert len(published[1]) == 1
    assert list(path.parent.iterdir()) == [path]


def test_damaged_weights_are_fetched_again(published, tmp_path):
    path = fetch_weights(tmp_path, progress=False)
    path.write_bytes(CONTENT[:-1])
    assert fetch_weights(tmp_path, progress=False).read_bytes() == CONTENT
    assert len(published[1]) == 2


def test_another_file_at_the_address_is_refused_and_not_kept(published, tmp_path):
    published[0].write_bytes(CONTENT[::-1])
    with pytest.raises(ValueError, match=r"its checksum is .*: give their file"):
        fetch_weights(tmp_path / "cache", progress=False)
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_a_connection_one_line_says_what_to_do(published, tmp_path):
    published[0].unlink()
    with pytest.raises(ValueError, match=r"cannot be fetched from file:.*give their file") as error:
        fetch_weights(tmp_path / "cache", progress=False)
    assert "\n" not in str(error.value)


def test_an_interrupted_fetch_leaves_nothing(published, tmp_path, monkeypatch):
    class Cut(io.BytesIO):
        headers = types.MappingProxyType({"Content-Length": "3000000"})

        def read(self, size):
            if self.tell() > 0:
                raise ConnectionResetError("reset by peer")
            return super().read(size)

    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: Cut(CONTENT))
    with pytest.raises(ValueError, match="reset by peer"):
        fetch_weights(tmp_path / "cache", progress=False)
    assert list((tmp_path / "cache").iterdir()) == []
