# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Guided diffusion in a few cells
#
# Trains a small diffusion model on real handwritten digits, samples from it under `jit`, shows what
# the guidance strength `w` does, and ends with a denoiser of your own.

# %% [markdown]
# ## Install
#
# `jax` is named at the version that is here already, so that pip leaves it, and its accelerator
# support, alone. Set `SOURCE` to where you have `cfg_jax` from: a path, or `git+https://…`.

# %%
import importlib.metadata
import importlib.util
import subprocess
import sys

SOURCE = "../.."  # the repository, seen from this notebook's folder

if importlib.util.find_spec("cfg_jax") is None:
    here = [f"{name}=={importlib.metadata.version(name)}" for name in ("jax", "jaxlib")]
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", SOURCE, *here], check=True)

# %%
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import cfg_jax
from cfg_jax import grids, guidance, recipe, schedules, solvers
from cfg_jax.data.images import tile
from cfg_jax.data.samples import to_uint8
from cfg_jax.training.loop import train

cfg_jax.use_cores()  # on a CPU: all of its cores; before anything asks JAX for its devices
jax.devices()


# %%
def show(images, columns, title=""):
    """Draws a grid of images in [-1, 1]."""
    page = tile(to_uint8(images), columns)
    plt.figure(figsize=(columns * 0.8, len(images) / columns * 0.8))
    plt.imshow(page.squeeze(), cmap="gray", vmin=0, vmax=255)
    plt.axis("off")
    plt.title(title)
    plt.show()


# %% [markdown]
# ## A model
#
# A recipe says which objects make a model and train it: `recipe.default()` is a whole one, of
# digits with their labels. What is trained already in `runs/digits` is loaded; else a thousand
# steps train one, which takes a minute or two on a CPU. The same call goes on where it stopped.

# %%
WORKDIR = Path("runs/digits")
STEPS = 1000

if not WORKDIR.exists():
    config = recipe.default()
    config.network.channels = 32
    config.network.channel_mult = (1, 2)
    config.network.blocks = 1
    config.network.attention_resolutions = (4,)
    config.network.head_channels = 32
    config.optimiser.learning_rate = 1e-3
    config.optimiser.warmup = 100
    config.optimiser.decay = "cosine"
    config.averages.ema.decay = 0.995
    config.train.steps = STEPS
    config.train.batch_size = 64
    config.train.sample_every = 0
    train(config, WORKDIR)

model = cfg_jax.load(WORKDIR)
model, model.step, model.class_names

# %% [markdown]
# ## Samples
#
# What a network is asked for goes by name: here `label`. The same key and number give the same
# image, in any batch. `w` is the guidance paper's strength: 0 is none. (Other libraries count the
# scale s = 1 + w: `guidance.from_scale(s)`.)

# %%
labels = jnp.arange(10).repeat(4)
show(model.sample(jax.random.key(0), label=labels, w=1.0, steps=20), 10, "w = 1")

# %% [markdown]
# ## What w does
#
# The same noise and labels with growing `w`: every row becomes more typical of its class, and the
# examples of one class more alike. `w` may be an array, one strength an image.

# %%
strengths = jnp.array([0.0, 0.3, 1.0, 4.0])
digits = jnp.array([3, 5, 8]).repeat(4)
rows = [model.sample(jax.random.key(1), label=digits, w=w, steps=20) for w in strengths]
show(jnp.concatenate(rows), len(digits), "w = 0, 0.3, 1, 4 from the top")

# %% [markdown]
# ## Under your own jit
#
# A model is a pytree of its parameters, and `cfg_jax.sample` is what `model.sample` is made of: it
# takes any denoiser, here the guided network, its x̂ kept within [-1, 1], and any solver, here DDIM.
# Parameters, labels, keys, `w` and the solver's knobs are traced: changing them compiles nothing.


# %%
@jax.jit
def draw(model, key, labels, w):
    return cfg_jax.sample(
        model.guided(w),
        key,
        model.condition(label=labels),
        shape=model.shape,
        schedule=model.schedule,
        solver=solvers.DDIM(),
        grid=grids.UniformU(),
        steps=20,
    )


show(draw(model, jax.random.key(2), jnp.arange(10).repeat(2), 2.0), 10, "DDIM, 20 steps, w = 2")

# %% [markdown]
# ## Your own ε
#
# A denoiser is any function `(z, logsnr, cond) -> eps`. This one is exact: three Gaussian clusters
# on a circle, one a class, and class 3 stands for "any". Guidance pushes the classes apart.

# %%
SPREAD = 0.4
angles = jnp.arange(3) * 2 * jnp.pi / 3
centres = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def exact(z, logsnr, cond):
    """E[ε | z_λ] for the mixture, or for the one cluster that cond names."""
    alpha, sigma = jnp.sqrt(jax.nn.sigmoid(logsnr)), jnp.sqrt(jax.nn.sigmoid(-logsnr))
    variance = (alpha * SPREAD) ** 2 + sigma**2
    away = z[:, None, :] - alpha * centres
    log_weight = -jnp.sum(away**2, -1) / (2 * variance)
    chosen = (cond[:, None] == jnp.arange(3)) | (cond[:, None] == 3)
    weight = jax.nn.softmax(jnp.where(chosen, log_weight, -jnp.inf), axis=-1)
    return sigma * jnp.sum(weight[..., None] * away, axis=1) / variance


figure, axes = plt.subplots(1, 3, figsize=(9, 3), sharex=True, sharey=True)
which = jnp.arange(600) % 3
for axis, w in zip(axes, (0.0, 1.0, 3.0), strict=True):
    points = cfg_jax.sample(
        guidance.classifier_free(exact, w=w, null=3),
        jax.random.key(0),
        which,
        shape=(2,),
        schedule=schedules.Cosine(),
        steps=100,
    )
    axis.scatter(*np.asarray(points).T, c=np.asarray(which), s=4)
    axis.set_title(f"w = {w:g}")
    axis.set_aspect("equal")
plt.show()
