"""Text encoders of transformers, run by torch beside ours on the same weights and ids."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from cfg_jax.text import pretrained

torch = pytest.importorskip("torch", reason="runs the text encoders of transformers")
transformers = pytest.importorskip("transformers", reason="compares with transformers")
pytestmark = pytest.mark.parity

VOCABULARY, BATCH, LENGTH = 60, 4, 11
RNG = np.random.default_rng(0)
EOS = 57


@pytest.fixture(autouse=True)
def exact_products():
    with jax.default_matmul_precision("highest"):
        yield


def randomised(module):
    """New values for every parameter, norms and biases too."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        spread = 0.5 if parameter.ndim < 2 or "embed" in name else parameter.shape[1] ** -0.5
        centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        parameter.data = centre + spread * noise
    return module.eval()


def tokens():
    """Rows with their end at different places and any ids behind it, one with several ends."""
    ids = RNG.integers(3, EOS, (BATCH, LENGTH))
    mask = np.zeros((BATCH, LENGTH), bool)
    for row, end in enumerate((1, 4, 8, 10)):
        ids[row, end] = EOS
        ids[row, end + 1 :] = RNG.integers(0, EOS, LENGTH - end - 1)
        mask[row, : end + 1] = True
    ids[1, 7:9] = EOS
    ids[2, 3] = EOS + 1  # a token that was added, in the text
    return ids, mask


IDS, MASK = tokens()


def clip_config(**options):
    return transformers.CLIPTextConfig(
        **{
            "vocab_size": VOCABULARY,
            "hidden_size": 24,
            "intermediate_size": 40,
            "projection_dim": 12,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": LENGTH + 2,
            "eos_token_id": EOS,
            "bos_token_id": 0,
            "pad_token_id": 1,
        }
        | options
    )


def t5_config(**options):
    return transformers.T5Config(
        **{
            "vocab_size": VOCABULARY,
            "d_model": 24,
            "d_kv": 5,
            "d_ff": 40,
            "num_layers": 3,
            "num_heads": 4,
            "relative_attention_num_buckets": 8,
            "relative_attention_max_distance": 9,
            "feed_forward_proj": "gated-gelu",
        }
        | options
    )


def ours(module, tmp_path, **fields):
    """Our encoder and its variables, by way of the folder that transformers saves."""
    module.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    encoder = pretrained.encoder(config).clone(**fields)
    tensors = load_file(tmp_path / "model.safetensors")
    return encoder, pretrained.parameters(tensors, encoder)


def error(got, want):
    want = want.detach().numpy()
    assert np.shape(got) == want.shape
    return float(np.abs(np.asarray(got) - want).max() / np.abs(want).max())


def assert_close(got, want):
    assert error(got, want) <= 1e-4


CLIPS = {
    "quick_gelu": ("CLIPTextModel", {"hidden_act": "quick_gelu"}),
    "gelu": ("CLIPTextModel", {"hidden_act": "gelu"}),
    "largest": ("CLIPTextModel", {"eos_token_id": 2}),
    "projection": ("CLIPTextModelWithProjection", {}),
    "square projection": ("CLIPTextModelWithProjection", {"projection_dim": 24}),
    "projection of the largest": (
        "CLIPTextModelWithProjection",
        {"eos_token_id": 2, "hidden_act": "gelu"},
    ),
}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", CLIPS)
def test_clip(kind, masked, tmp_path):
    name, options = CLIPS[kind]
    module = randomised(getattr(transformers, name)(clip_config(**options)))
    encoder, variables = ours(module, tmp_path, masked=masked)
    with torch.no_grad():
        want = module(
            torch.from_numpy(IDS),
            attention_mask=torch.from_numpy(MASK) if masked else None,
            output_hidden_states=True,
        )
    got = encoder.apply(variables, jnp.asarray(IDS), jnp.asarray(MASK))
    errors = [error(*pair) for pair in zip(got.states, want.hidden_states, strict=True)]
    errors.append(error(got.last, want.last_hidden_state))
    pooled = want.text_embeds if "Projection" in name else want.pooler_output
    errors.append(error(got.pooled, pooled))
    assert max(errors) <= 1e-4
    np.testing.assert_array_equal(got.sequence, got.last)


def test_the_sequences_of_stable_diffusion(tmp_path):
    """SD1's clip_skip takes a hidden state through the final norm; SDXL takes it as it is."""
    module = randomised(transformers.CLIPTextModel(clip_config()))
    with torch.no_grad():
        hidden = module(torch.from_numpy(IDS), output_hidden_states=True).hidden_states
        norm = getattr(module, "text_model", module).final_layer_norm
        for skip in range(3):
            encoder, variables = ours(module, tmp_path, layer=-(skip + 1))
            got = encoder.apply(variables, jnp.asarray(IDS)).sequence
            assert_close(got, norm(hidden[-(skip + 1)]))
        encoder, variables = ours(module, tmp_path, layer=-2, final_norm=False)
        assert_close(encoder.apply(variables, jnp.asarray(IDS)).sequence, hidden[-2])


T5S = {
    "gated": {},
    "relu": {"feed_forward_proj": "relu"},
    "the usual buckets": {
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
    },
}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", T5S)
def test_t5(kind, masked, tmp_path):
    module = randomised(transformers.T5EncoderModel(t5_config(**T5S[kind])))
    encoder, variables = ours(module, tmp_path, masked=masked)
    with torch.no_grad():
        want = module(
            torch.from_numpy(IDS),
            attention_mask=torch.from_numpy(MASK) if masked else None,
            output_hidden_states=True,
        )
    got = encoder.apply(variables, jnp.asarray(IDS), jnp.asarray(MASK))
    # Theirs has the normalised state in the place of the last.
    errors = [error(*pair) for pair in zip(got.states[:-1], want.hidden_states[:-1], strict=True)]
    errors.append(error(got.last, want.last_hidden_state))
    assert max(errors) <= 1e-4
    assert got.pooled is None


def test_the_buckets_of_t5(tmp_path):
    from transformers.models.t5.modeling_t5 import T5Attention

    from cfg_jax.text.t5 import bucket

    relative = np.arange(-700, 701)
    for buckets, distance in ((32, 128), (8, 9), (64, 256), (12, 100)):
        want = T5Attention._relative_position_bucket(
            torch.from_numpy(relative), num_buckets=buckets, max_distance=distance
        )
        np.testing.assert_array_equal(bucket(relative, buckets, distance), want.numpy())


TABLES = ("embeddings.token_embedding.weight", "shared.weight")


def their_gradient(module, table, weights, output):
    """By the embeddings of the tokens that go in."""
    kept = []
    handle = table.register_forward_hook(
        lambda _, __, embedded: kept.append(embedded.detach().requires_grad_()) or kept[-1]
    )
    found = output(module(torch.from_numpy(IDS), attention_mask=torch.from_numpy(MASK)))
    sum((torch.from_numpy(w) * x).sum() for w, x in zip(weights, found, strict=True)).backward()
    handle.remove()
    return kept[-1].grad


@pytest.mark.parametrize("kind", ["CLIPTextModelWithProjection", "T5EncoderModel"])
def test_gradients_by_the_embeddings(kind, tmp_path):
    config = t5_config() if kind.startswith("T5") else clip_config()
    module = randomised(getattr(transformers, kind)(config))
    encoder, variables = ours(module, tmp_path, masked=True)
    shapes = [(BATCH, LENGTH, 24)] + ([] if kind.startswith("T5") else [(BATCH, 12)])
    weights = [RNG.normal(size=shape).astype(np.float32) for shape in shapes]

    def scalar(variables, embedded):
        found = encoder.apply(variables, jnp.asarray(IDS), jnp.asarray(MASK), embedded)
        outputs = [found.last] if found.pooled is None else [found.last, found.pooled]
        return sum((w * x).sum() for w, x in zip(weights, outputs, strict=True))

    embedded = encoder.apply(variables, IDS, method="embed")
    by_all, by_embedded = jax.jit(jax.grad(scalar, argnums=(0, 1)))(variables, embedded)
    (table,) = (
        part
        for name, part in module.named_modules()
        if name.endswith(("token_embedding", "embed_tokens"))
    )

    def outputs(found):
        pooled = getattr(found, "text_embeds", None)
        return [found.last_hidden_state] + ([] if pooled is None else [pooled])

    want = their_gradient(module, table, weights, outputs)
    assert_close(by_embedded, want)
    names = pretrained.tensor_shapes(encoder)
    gradients = {
        name.removeprefix("text_model."): parameter.grad.numpy()
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }
    table_name = next(name for name in names if name in TABLES)  # the hook cuts the table off
    gradients = gradients | {table_name: np.zeros((VOCABULARY, 24), np.float32)}
    theirs = pretrained.parameters(gradients, encoder)
    for path, leaf in jax.tree_util.tree_leaves_with_path(theirs):
        got = functools.reduce(lambda tree, key: tree[key.key], path, by_all)
        largest = np.abs(leaf).max()
        if path[-2].key == "k" and path[-1].key == "bias":  # softmax does not see it
            assert max(largest, np.abs(got).max()) < 1e-5
        elif path[1].key != "tokens":
            assert largest > 0
            assert np.abs(got - leaf).max() <= 1e-4 * largest, path
