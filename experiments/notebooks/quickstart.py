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
from cfg_jax import guidance, schedules, solvers
from cfg_jax.data.images import tile, to_uint8
from cfg_jax.training import config as recipe
from cfg_jax.training.loop import train

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
# What is trained already in `runs/digits` is loaded; else a thousand steps train one, which takes
# a minute or two on a CPU. The same call goes on where it stopped.

# %%
WORKDIR = Path("runs/digits")
STEPS = 1000

if not WORKDIR.exists():
    config = recipe.default()
    config.model.channels = 32
    config.model.channel_mult = (1, 2)
    config.model.blocks = 1
    config.model.attention_resolutions = (4,)
    config.model.head_channels = 32
    config.optim.learning_rate = 1e-3
    config.optim.warmup = 100
    config.train.steps = STEPS
    config.train.batch_size = 64
    config.train.ema = (0.995,)
    config.train.sample_every = 0
    config.sample.steps = 50
    train(config, WORKDIR)

run = cfg_jax.load(WORKDIR)
run.step, run.shape, run.class_names

# %% [markdown]
# ## Samples
#
# The same key and number give the same image, in any batch. `w` is the guidance paper's strength:
# 0 is none. (Other libraries count the scale s = 1 + w: `guidance.from_scale(s)`.)

# %%
labels = jnp.arange(10).repeat(4)
show(run.sample(jax.random.key(0), labels, w=1.0, steps=50), 4, "w = 1")

# %% [markdown]
# ## What w does
#
# The same noise and labels with growing `w`: every row becomes more typical of its class, and the
# examples of one class more alike. `w` may be an array, one strength an image.

# %%
strengths = jnp.array([0.0, 0.3, 1.0, 4.0])
digits = jnp.tile(jnp.array([3, 5, 8]), len(strengths))
rows = [run.sample(jax.random.key(1), digits[:3], w=float(w), steps=50) for w in strengths]
show(jnp.concatenate(rows), 3, "w = 0, 0.3, 1, 4 from the top")

# %% [markdown]
# ## Under your own jit
#
# `sample` is a pure function. Parameters, labels, keys, `w` and the solver's knobs are traced:
# changing them compiles nothing.


# %%
@jax.jit
def draw(params, key, labels, w):
    denoiser = jax.tree_util.Partial(run.network.apply, params)
    guided = guidance.classifier_free(denoiser, w=w, null=run.null)
    return cfg_jax.sample(
        guided,
        key,
        labels,
        shape=run.shape,
        schedule=run.schedule,
        solver=solvers.DDIM(),
        steps=20,
    )


show(draw(run.params, jax.random.key(2), jnp.arange(10), 2.0), 5, "DDIM, 20 steps, w = 2")

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
