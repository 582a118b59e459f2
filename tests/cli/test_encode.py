"""Codecs by the commands: latents beforehand, and how well data come back."""

import json

import numpy as np
import pytest

import cfg_jax
from cfg_jax import evaluation
from cfg_jax.data import Digits
from cfg_jax.runtime import files


@pytest.mark.slow
def test_commands_encode_and_evaluate(autoencoder, command, tmp_path):
    written = tmp_path / "latent.py"
    written.write_text(
        "from recipes import tiny_latent\n\n\ndef get_config():\n"
        f"    return tiny_latent({str(autoencoder)!r})\n"
    )
    code, out, err = command("encode", "--config", written)
    assert code == 0, err
    assert "latents of 4×4×2 in" in out
    code, out, err = command("evaluate", "--workdir", autoencoder, "--out", tmp_path / "report")
    assert code == 0, err
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    x = Digits().open("test").floats(range(360))
    run = cfg_jax.load(autoencoder)
    back = np.clip(run.decode(run.encode(x)), -1, 1)
    psnr = 10 * np.log10(4 / ((back - x) ** 2).mean((1, 2, 3)))
    assert report["scores"]["psnr"] == pytest.approx(psnr.mean(), rel=1e-4)
    judge = evaluation.train_classifier(
        Digits().open("train"), Digits().open("test"), cache=files.cache()
    )
    own, real = (
        evaluation.moments(judge.features_and_probabilities(images)[0]) for images in (back, x)
    )
    assert report["scores"]["frechet_distance"] == pytest.approx(
        evaluation.frechet_distance(own, real), rel=1e-3
    )
    assert (tmp_path / "report" / "reconstructions.png").exists()
    code, _, err = command("sample", "--workdir", autoencoder, "--out", tmp_path / "x.png")
    assert code == 2
    assert "holds a codec, not a diffusion model" in err
