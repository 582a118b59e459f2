"""Scores and features against torch-fidelity's and pytorch-fid's own, live."""

import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from inception_network import random_tensors

from cfg_jax.evaluation import (
    frechet_distance,
    inception_score,
    kernel_distance,
    moments,
    precision_recall,
)
from cfg_jax.evaluation.inception import variables
from cfg_jax.evaluation.inception_network import InceptionV3, resize
from cfg_jax.runtime import torch_file


class StandIn(types.ModuleType):
    """For torchvision, of which nothing is needed here, while the projects are imported."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return sys.modules.get(f"{self.__name__}.{name}", type(name, (), {}))


def optional(name):
    return pytest.importorskip(name, reason="needs torch, torch-fidelity and pytorch-fid")


torch = optional("torch")
TRANSFORMS = (".transforms", ".transforms.functional")
with pytest.MonkeyPatch.context() as patch:
    for part in ("", ".datasets", ".models", ".models.inception", *TRANSFORMS):
        patch.setitem(sys.modules, f"torchvision{part}", StandIn(f"torchvision{part}"))
    pytorch_fid = optional("pytorch_fid.fid_score")
    extractor = optional("torch_fidelity.feature_extractor_inceptionv3")
    interpolate = optional("torch_fidelity.interpolate_compat_tensorflow")
    metric_isc = optional("torch_fidelity.metric_isc")
    metric_kid = optional("torch_fidelity.metric_kid")
    metric_prc = optional("torch_fidelity.metric_prc")

pytestmark = pytest.mark.parity

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def features():
    """Two sets of features like Inception's: positive, correlated, few large."""
    mix = RNG.normal(size=(64, 64)) / 8
    real, fake = (np.abs(RNG.normal(m, 1.0, (400, 64)) @ mix) for m in (0.0, 0.2))
    return real.astype(np.float32), fake.astype(np.float32)


def test_frechet_distance_is_pytorch_fids(features):
    ours = frechet_distance(*map(moments, features))
    statistics = [f(x) for x in features for f in (lambda x: x.mean(0, np.float64), cov)]
    theirs = pytorch_fid.calculate_frechet_distance(*statistics)
    assert ours == pytest.approx(theirs, rel=1e-6)


def cov(x):
    return np.cov(x.astype(np.float64), rowvar=False)


def test_kernel_distance_is_torch_fidelitys(features):
    theirs = metric_kid.kid_features_to_metric(
        *(torch.from_numpy(x.astype(np.float64)) for x in features),
        kid_subsets=2,
        kid_subset_size=400,
        kid_degree=3,
        kid_gamma=None,
        kid_coef0=1,
        rng_seed=0,
        verbose=False,
    )
    ours, _ = kernel_distance(*features, subsets=2, subset_size=400)
    assert ours == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-6)


@pytest.mark.parametrize("save_cpu_ram", [False, True])
def test_precision_and_recall_are_torch_fidelitys(features, save_cpu_ram):
    real, samples = features
    theirs = metric_prc.prc_features_to_metric(
        torch.from_numpy(samples),  # First since torch-fidelity 0.4.
        torch.from_numpy(real),
        prc_neighborhood=3,
        prc_batch_size=100,
        save_cpu_ram=save_cpu_ram,
        verbose=False,
    )
    ours = precision_recall(real, samples, block=100)
    assert 0.1 < ours[0] < 0.99
    assert ours == pytest.approx((theirs["precision"], theirs["recall"]), abs=1e-6)


def test_inception_score_is_torch_fidelitys():
    logits = RNG.normal(0.0, 2.0, (1000, 30))
    theirs = metric_isc.isc_features_to_metric(torch.from_numpy(logits), splits=10, shuffle=False)
    exponentials = np.exp(logits)
    mean, deviation = inception_score(exponentials / exponentials.sum(1, keepdims=True), splits=10)
    assert mean == pytest.approx(theirs["inception_score_mean"], rel=1e-6)
    assert deviation == pytest.approx(theirs["inception_score_std"], rel=1e-6)


@pytest.mark.parametrize("size", [(32, 32), (64, 48), (400, 512)])
def test_resizing_is_torch_fidelitys(size):
    images = RNG.integers(0, 256, (2, *size, 3)).astype(np.float32)
    theirs = interpolate.interpolate_bilinear_2d_like_tensorflow1x(
        torch.from_numpy(images.transpose(0, 3, 1, 2)), size=(299, 299), align_corners=False
    )
    ours = np.asarray(resize(jnp.asarray(images), 299)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-4)


FEATURES = ["64", "192", "768", "2048", "logits_unbiased"]


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """torch-fidelity's network of random weights, in a file that PyTorch wrote."""
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    tensors = {name: torch.from_numpy(t) for name, t in random_tensors().items()}
    torch.save({**tensors, "fc.bias": torch.ones(1008)}, path)
    original = torch.nn.Module.load_state_dict
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            extractor.FeatureExtractorInceptionV3,
            "load_state_dict",
            lambda self, state: original(self, state, strict=False),
        )
        theirs = extractor.FeatureExtractorInceptionV3(
            "inception", FEATURES, feature_extractor_weights_path=str(path)
        )
    return path, theirs


def test_every_layer_is_torch_fidelitys(network):
    path, theirs = network
    images = RNG.integers(0, 256, (1, 40, 32, 3), dtype=np.uint8)
    outputs = {}
    for name, module in theirs.named_modules():
        module.register_forward_hook(
            lambda _, inputs, out, name=name: outputs.__setitem__(name, out)
        )
    features = dict(
        zip(FEATURES, theirs(torch.from_numpy(images.transpose(0, 3, 1, 2))), strict=True)
    )
    found, state = jax.jit(lambda v, x: InceptionV3().apply(v, x, capture_intermediates=True))(
        variables(torch_file.read(path)), images
    )
    layers = 0
    for keys, (ours, *_) in flatten(state["intermediates"]):
        name = ".".join(keys)
        if name and name != "fc":
            want = outputs[name].numpy().transpose(0, 2, 3, 1)
            assert ours.shape == want.shape
            # BatchNorm's output is rectified in place there.
            ours = np.maximum(ours, 0) if name.endswith("bn") else ours
            np.testing.assert_allclose(
                ours, want, rtol=0, atol=1e-4 * np.abs(want).max(), err_msg=name
            )
            layers += 1
    assert layers == 94 * 3 + 11
    pooled = {"2048": found.pool, "logits_unbiased": found.logits}
    for name, ours in pooled.items():
        want = features[name].numpy()
        np.testing.assert_allclose(ours, want, rtol=0, atol=1e-4 * np.abs(want).max())
    spatial = outputs["Mixed_6d.branch1x1"].numpy()[:, :7].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(
        found.spatial, spatial.reshape(1, -1), rtol=0, atol=1e-4 * spatial.max()
    )


def flatten(tree, keys=()):
    for name, value in tree.items():
        if name == "__call__":
            yield keys, value
        else:
            yield from flatten(value, (*keys, name))
