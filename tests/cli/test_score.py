"""The command `score`: its table and JSON against the pieces, and what it refuses."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from fake_inception import fake_inception
from PIL import Image

import cfg_jax
from cfg_jax import evaluation, recipe
from cfg_jax.cli import score
from cfg_jax.data.samples import to_uint8
from cfg_jax.evaluation import inception
from cfg_jax.runtime.files import checksum

RNG = np.random.default_rng(0)
REAL = RNG.integers(0, 200, (40, 8, 8, 3), dtype=np.uint8)
FAKE = RNG.integers(40, 256, (50, 8, 8, 3), dtype=np.uint8)
MU, SIGMA = np.arange(6.0), np.diag(np.arange(1.0, 7.0))


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Samples, references and weights, and a network that is cheap and knows what it was given."""
    monkeypatch.chdir(tmp_path)
    np.savez("samples.npz", FAKE, np.arange(50))
    np.savez("images.npz", arr_0=REAL)
    np.savez("statistics.npz", mu=MU, sigma=SIGMA)
    (tmp_path / "weights.pth").write_text("weights")
    calls = []

    def load(path):
        assert path.read_text() == "weights"
        return lambda images: calls.append(len(images)) or fake_inception(images)

    monkeypatch.setattr(inception, "load_inception", load)
    return tmp_path, calls


FLAGS = ("--samples", "samples.npz", "--weights", "weights.pth", "--cache", "cache")


def test_json_and_table_hold_what_the_pieces_give(command, files):
    code, out, err = command("score", *FLAGS, "--reference", "images.npz", "--batch", 12)
    assert code == 0, err
    report = json.loads((files[0] / "samples.npz.scores.json").read_text())
    ours, theirs = (
        evaluation.measure(evaluation.open_archive(files[0] / name), fake_inception)
        for name in ("samples.npz", "images.npz")
    )
    want = evaluation.compare(ours, theirs)
    assert report["scores"] == pytest.approx(want, rel=1e-9)
    assert report["left_out"] == {}
    assert report["settings"]["sample_images"] == 50
    assert report["settings"]["weights_sha256"] == checksum(files[0] / "weights.pth")
    cells = [line.strip("| ").split(" | ") for line in out.splitlines() if line.startswith("|")]
    table = dict(cells[2:])
    assert float(table["FID ↓"]) == pytest.approx(want["fid"], rel=1e-3)
    assert table["Inception score ↑"] == f"{want['is']:.2f} ± {want['is_std']:.2f}"
    assert float(table["recall ↑"]) == pytest.approx(want["recall"], abs=1e-4)
    assert len(table) == 6
    assert f"by about {want['fid_bias']:.3g}: compare it only with figures of 50 samples" in out
    assert "These weights are not the published ones" in out


def test_of_the_published_weights_nothing_needs_to_be_said(command, files, monkeypatch):
    monkeypatch.setattr(inception, "SHA256", checksum(files[0] / "weights.pth"))
    code, out, err = command("score", *FLAGS, "--reference", "images.npz")
    assert code == 0, err
    assert "published" not in out


def test_a_reference_is_measured_once(command, files):
    asked = ("score", *FLAGS, "--reference", "images.npz", "--metrics", "fid,pr")
    command(*asked)
    _, calls = files
    first = json.loads((files[0] / "samples.npz.scores.json").read_text())["scores"]
    assert sum(calls) >= 90
    calls.clear()
    command(*asked, "--out", "new/again.json")
    assert sum(calls) < 90
    assert json.loads((files[0] / "new/again.json").read_text())["scores"] == first


def test_a_reference_of_statistics_gives_what_it_allows(command, files):
    code, out, err = command("score", *FLAGS, "--reference", "statistics.npz")
    assert code == 0, err
    report = json.loads((files[0] / "samples.npz.scores.json").read_text())
    assert set(report["scores"]) == {"fid", "fid_bias", "is", "is_std"}
    assert set(report["left_out"]) == {"sfid", "kid", "pr"}
    assert "kid is left out: statistics.npz has no images (arr_0)." in out


def test_the_inception_score_needs_no_reference(command, files):
    code, _, err = command("score", *FLAGS)
    assert code == 0, err
    report = json.loads((files[0] / "samples.npz.scores.json").read_text())
    assert set(report["scores"]) == {"is", "is_std"}


def test_two_files_of_statistics_need_no_network(command, files, monkeypatch):
    monkeypatch.setattr(inception, "load_inception", None)
    np.savez("other.npz", mu=MU + 1, sigma=SIGMA)
    code, _, err = command("score", "--samples", "other.npz", "--reference", "statistics.npz")
    assert code == 0, err
    report = json.loads((files[0] / "other.npz.scores.json").read_text())
    assert report["scores"] == {"fid": pytest.approx(6.0)}
    assert report["settings"]["weights_sha256"] is None


@pytest.fixture
def pictures(files):
    """The reference's images as a folder, and as a file of the project's own."""
    (files[0] / "real").mkdir()
    for number, image in enumerate(REAL):
        Image.fromarray(image).save(files[0] / "real" / f"{number:03}.png")
    np.savez("own.npz", x=REAL, label=np.arange(40) % 4)
    np.savez("named.npz", image=FAKE)
    return files


@pytest.mark.parametrize("flags", [("own.npz", "samples.npz"), ("real", "named.npz")])
def test_a_folder_and_a_file_of_the_projects_own_are_scored_alike(command, pictures, flags):
    """As files of arr_0 are: the same scores."""
    reference, samples = flags
    asked = ("score", *FLAGS[2:], "--samples", samples, "--reference", reference)
    code, _, err = command(*asked, "--out", "a.json")
    assert code == 0, err
    code, _, err = command("score", *FLAGS, "--reference", "images.npz", "--out", "b.json")
    assert code == 0, err
    ours, theirs = (json.loads((pictures[0] / name).read_text()) for name in ("a.json", "b.json"))
    assert ours["scores"] == pytest.approx(theirs["scores"], rel=1e-9)
    assert ours["settings"]["reference"] == reference


def test_a_folder_is_scored_beside_itself(command, pictures, monkeypatch):
    place, _ = pictures
    ask = ("score", "--weights", place / "weights.pth", "--metrics", "is", "--samples")
    code, _, err = command(*ask, "real")
    assert code == 0, err
    first = json.loads((place / "real.scores.json").read_text())["scores"]
    (place / "real.scores.json").unlink()
    monkeypatch.chdir(place / "real")
    code, _, err = command(*ask, ".")
    assert code == 0, err
    assert json.loads((place / "real.scores.json").read_text())["scores"] == first


def test_a_run_is_scored_by_its_samples_against_what_it_was_trained_on(command, files, trained):
    """As its samples and its data, written to files, are."""
    run = cfg_jax.load(trained)
    labels = np.resize(np.arange(10), 12)
    drawn = run.sample(jax.random.key(3), label=labels, w=1.0)
    np.savez("drawn.npz", to_uint8(drawn), labels)
    real = recipe.make(run.config.data, "data").open("train").source
    np.savez("data.npz", arr_0=np.stack([real[i]["x"] for i in range(len(real))]))
    ask = ("score", *FLAGS[2:], "--metrics", "fid,sfid,is")
    model = ("--samples", trained, "--count", 12, "--seed", 3, "--w", 1.0, "--batch", 8)
    code, _, err = command(*ask, *model, "--reference", trained, "--out", "a.json")
    assert code == 0, err
    stored = ("--samples", "drawn.npz", "--reference", "data.npz", "--batch", 8)
    code, _, err = command(*ask, *stored, "--out", "b.json")
    assert code == 0, err
    ours, theirs = (json.loads((files[0] / name).read_text()) for name in ("a.json", "b.json"))
    assert ours["scores"] == pytest.approx(theirs["scores"], rel=0.02)
    assert ours["settings"]["drawn"] == {"count": 12, "seed": 3, "w": 1.0}
    assert ours["settings"]["sample_images"] == 12
    assert theirs["settings"]["drawn"] is None


def test_what_a_model_cannot_draw_is_refused(refused, files, trained, noisy):
    ask = ("score", *FLAGS[2:], "--metrics", "is", "--samples")
    assert "--count belongs to samples of a model" in refused(*ask, "samples.npz", "--count", 3)
    assert "--count must lie in [2, 1000000], got 1" in refused(*ask, trained, "--count", 1)
    assert "--seed must lie in" in refused(*ask, trained, "--seed", -1)
    assert "--w must lie in [-1e+06, 1e+06], got nan" in refused(*ask, trained, "--w", "nan")
    assert "holds a noisy classifier" in refused(*ask, noisy)


def test_without_weights_they_are_fetched_into_the_cache(command, files, monkeypatch):
    def fetch(folder):
        assert str(folder) == "home/cfg_jax"
        return files[0] / "weights.pth"

    monkeypatch.setattr(inception, "fetch_weights", fetch)
    monkeypatch.setenv("XDG_CACHE_HOME", "home")
    code, _, err = command("score", "--samples", "samples.npz")
    assert code == 0, err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "give --samples"),
        (("--samples", "none.npz"), "the file none.npz does not exist"),
        (("--samples", "weights.pth"), "is damaged, or no .npz file"),
        ((*FLAGS, "--reference", "none.npz"), "the file none.npz does not exist"),
        ((*FLAGS, "--metrics", "fid,fdd"), "--metrics takes fid,sfid,is,kid,pr; got 'fdd'"),
        ((*FLAGS, "--metrics", "fid"), "fid cannot be computed: there is no reference"),
        (
            (*FLAGS, "--reference", "statistics.npz", "--metrics", "sfid"),
            "sfid cannot be computed: statistics.npz has no images (arr_0), and no mu_s",
        ),
        ((*FLAGS, "--reference", "small.npz"), "bring both to one size"),
        (("--samples", "floats.npz"), "arr_0 holds float64; images are uint8"),
        (("--samples", "statistics.npz"), "no score can be computed: there is no reference"),
        (("--samples", "complex.npz"), "mu holds complex128; statistics are real numbers"),
        (("--samples", "statistics.npz", "--reference", "negative.npz"), "none below 0"),
        ((*FLAGS, "--batch", "0"), "--batch must be at least 1"),
        (
            ("--samples", "one.npz", *FLAGS[2:], "--reference", "images.npz"),
            "one.npz holds one image",
        ),
        ((*FLAGS, "--reference", "one.npz", "--metrics", "fid"), "one.npz holds one image"),
        (
            ("--samples", "one.npz", *FLAGS[2:], "--metrics", "is"),
            "is cannot be computed: one.npz holds one image",
        ),
    ],
)
def test_mistakes_are_refused_in_one_line(refused, files, flags, message):
    np.savez("small.npz", REAL[:, :4])
    np.savez("floats.npz", REAL / 255.0)
    np.savez("one.npz", REAL[:1])
    np.savez("complex.npz", mu=MU + 1j, sigma=SIGMA)
    np.savez("negative.npz", mu=MU, sigma=-SIGMA)
    assert message in refused("score", *flags)


@pytest.mark.parametrize(
    ("content", "message"), [(b"weights", "not a PyTorch weights file"), (None, "does not exist")]
)
def test_weights_that_are_none_are_refused(refused, tmp_path, content, message):
    np.savez(tmp_path / "samples.npz", FAKE)
    if content:
        (tmp_path / "w.pth").write_bytes(content)
    flags = ("--samples", tmp_path / "samples.npz", "--weights", tmp_path / "w.pth")
    assert message in refused("score", *flags)


def test_scores_of_names_that_differ_after_a_dot_lie_apart():
    beside = {score._beside(Path("out", name)).name for name in ("w0.1", "w0.3", "a.npz", "a.zip")}
    assert beside == {f"{name}.scores.json" for name in ("w0.1", "w0.3", "a.npz", "a.zip")}


def test_an_empty_flag_is_not_the_default(refused, files):
    for name in ("reference", "out", "weights", "cache"):
        assert f"give --{name}" in refused("score", *FLAGS, f"--{name}=")


def test_a_link_in_the_place_of_the_scores_stays(command, files):
    (files[0] / "there").mkdir()
    (files[0] / "mine.json").symlink_to("there/kept.json")
    code, _, err = command("score", *FLAGS, "--out", "mine.json")
    assert code == 0, err
    assert (files[0] / "mine.json").is_symlink()
    assert "is" in json.loads((files[0] / "there/kept.json").read_text())["scores"]
