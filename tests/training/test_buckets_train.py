"""Training on pictures that are not square, a batch of one shape after another."""

import contextlib
import io

import numpy as np
import pytest
from folders import write
from PIL import Image
from recipes import captioned, tiny

from cfg_jax import recipe
from cfg_jax.data import Captioned, batches
from cfg_jax.training import metrics
from cfg_jax.training.loop import train


def pictures(folder):
    """Six wide, six tall and six square ones, of noise."""
    files, rng = {}, np.random.default_rng(0)
    for name, size in {"wide": (8, 32), "tall": (32, 8), "square": (16, 16)}.items():
        for n in range(6):
            pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(out := io.BytesIO(), "PNG")
            files |= {f"{name}{n}.png": out.getvalue(), f"{name}{n}.txt": name.encode()}
    return write(folder, files)


def config(path, steps):
    made = tiny()
    made.data = recipe.node(Captioned, path=str(path), image_size=16, buckets=8, aspect=4.0)
    captioned(made, length=20)
    made.train.steps = steps
    return made


@pytest.mark.slow
def test_a_run_learns_from_every_shape(tmp_path):
    made = config(pictures(tmp_path / "pictures"), 6)
    data = recipe.make(made.data, "data", path="config.data").open("train")
    with contextlib.closing(batches(data, batch_size=16, seed=made.train.seed)) as stream:
        shapes = {next(stream)["x"].shape[1:3] for _ in range(6)}
    assert shapes == {(8, 32), (32, 8), (16, 16)}
    train(made, tmp_path / "run")
    rows = metrics.read(tmp_path / "run" / "metrics.jsonl")
    assert rows[-1]["step"] == 6
    assert np.all(np.isfinite([row["loss"] for row in rows]))
