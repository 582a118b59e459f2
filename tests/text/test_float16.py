"""The encoders in float16, in a process whose compiler knows it; that of the tests need not."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

CODE = """
import jax, jax.numpy as jnp, numpy as np
from networks import random_variables
from cfg_jax.text import CLIPText, T5Encoder

rng = np.random.default_rng(0)
ids = jnp.asarray(rng.integers(2, 20, (3, 9)))
mask = jnp.arange(9) < jnp.array([[9], [5], [1]])

def compare(network, variables):
    found, want = (
        network.clone(dtype=dtype).apply(variables, ids, mask) for dtype in ("float16", "float32")
    )
    for got, expected in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        assert got.dtype == jnp.float32
        assert 0 <= np.abs(got - expected).max() < 0.05 * np.abs(expected).max()
    assert np.abs(found.last - want.last).max() > 0
    return np.abs(want.states[-1]).max()

clip = CLIPText(vocabulary=20, width=8, layers=2, heads=2, length=9, eos=17, projection=5)
compare(clip, random_variables(clip, ids))
for feed_forward in ("gated_gelu", "relu"):
    t5 = T5Encoder(
        vocabulary=20, width=8, layers=2, heads=3, head_channels=4, hidden=10,
        feed_forward=feed_forward,
    )
    variables = random_variables(t5, ids, mask)
    compare(t5, variables)
    params = dict(variables["params"])
    for name in ("blocks_0", "blocks_1"):
        params[name] = dict(params[name])
        for layer in ("up", "gate", "down"):
            if layer in params[name]:
                params[name][layer] = {"kernel": 700 * params[name][layer]["kernel"]}
    assert compare(t5, {"params": params}) > 4 * 65504
print("fine")
"""


def test_float16_is_close_to_float32_and_t5_does_not_overflow():
    """T5's published weights make the feed-forward layers exceed 65,504, float16's largest."""
    unset = ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS", "JAX_COMPILATION_CACHE_DIR")
    env = {name: value for name, value in os.environ.items() if name not in unset}
    env["PYTHONPATH"] = os.path.dirname(os.path.dirname(__file__))
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, env=env)
    assert done.stdout.strip() == "fine", done.stderr
