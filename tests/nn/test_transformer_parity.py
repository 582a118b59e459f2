"""The spatial transformer against diffusers' Transformer2DModel of the same random weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.interop import diffusers_transformers as interop
from cfg_jax.nn import SpatialTransformer

torch = pytest.importorskip("torch", reason="needs torch")
diffusers = pytest.importorskip("diffusers", reason="needs diffusers")
from torch_models import (  # noqa: E402
    arrays,
    channels_first,
    channels_last,
    double,
    error,
    outputs_of,
    randomised,
)

pytestmark = pytest.mark.parity

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 6, 10, 64)).astype(np.float32)
CONTEXT = RNG.normal(size=(2, 5, 12)).astype(np.float32)
KINDS = {
    "convolutions": (1, False, True),
    "dense layers": (3, True, True),
    "without a context": (2, True, False),
}


@pytest.fixture(scope="module", params=KINDS)
def pair(request):
    """Their module, ours, its variables, what both are called with beside x, and a conversion."""
    layers, linear, crossed = KINDS[request.param]
    theirs = randomised(
        diffusers.Transformer2DModel(
            num_attention_heads=4,
            attention_head_dim=16,
            in_channels=64,
            num_layers=layers,
            cross_attention_dim=12 if crossed else None,
            use_linear_projection=linear,
        )
    )
    ours = SpatialTransformer(heads=4, layers=layers)
    seen = (jnp.asarray(CONTEXT),) if crossed else ()
    shapes = jax.eval_shape(ours.init, jax.random.key(0), jnp.asarray(X), *seen)

    def converted(named):
        modules = interop.spatial_modules(layers)
        return interop.filled(arrays(named), shapes, modules)

    return theirs, ours, converted, seen


def asked(theirs, x, seen):
    return theirs(x, *(double(a) for a in seen)).sample


def test_every_block_and_the_output_agree(pair):
    theirs, ours, converted, seen = pair
    with torch.no_grad():
        output, blocks = outputs_of(
            theirs.transformer_blocks, lambda: asked(theirs, channels_first(X), seen)
        )
    apply = jax.jit(functools.partial(ours.apply, capture_intermediates=True))
    got, kept = apply(converted(theirs.state_dict().items()), jnp.asarray(X), *seen)
    for i, block in enumerate(blocks):
        assert error(kept["intermediates"][f"block{i}"]["__call__"][0], block.numpy()) < 1e-4
    assert error(got, channels_last(output)) < 1e-4


def test_gradients_by_all_parameters_and_by_x_agree(pair):
    theirs, ours, converted, seen = pair
    ahead = RNG.normal(size=X.shape).astype(np.float32)
    x = channels_first(X).requires_grad_()
    theirs.zero_grad()
    (asked(theirs, x, seen) * channels_first(ahead)).sum().backward()
    variables = converted(theirs.state_dict().items())

    def loss(variables, x):
        return (ours.apply(variables, x, *seen) * ahead).sum()

    got = jax.jit(jax.grad(loss, argnums=(0, 1)))(variables, jnp.asarray(X))
    grads = converted((name, value.grad) for name, value in theirs.named_parameters())
    assert error(got, (grads, channels_last(x.grad)), 1e-3) < 1e-4


def test_hidden_vectors_of_the_context_are_not_seen(pair):
    """As with diffusers' mask, which subtracts 10,000 from their logits."""
    theirs, ours, converted, seen = pair
    if not seen:
        pytest.skip("there is no context")
    mask = np.array([[1, 1, 0, 1, 0], [1, 0, 0, 0, 0]], bool)
    with torch.no_grad():
        want = theirs(
            channels_first(X), double(CONTEXT), encoder_attention_mask=torch.tensor(mask)
        ).sample
    variables = converted(theirs.state_dict().items())
    got = jax.jit(ours.apply)(variables, jnp.asarray(X), *seen, jnp.asarray(mask))
    assert error(got, channels_last(want)) < 1e-4
