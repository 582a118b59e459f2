"""What the README and docs/ say: their Python runs as written, their commands do what they say."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from fake_inception import fake_inception
from PIL import Image

from cfg_jax.cli import main
from cfg_jax.evaluation import inception
from cfg_jax.recipe.slots import SLOTS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHORT = (
    "--config.train.steps=2",
    "--config.train.batch_size=8",
    "--config.train.sample_every=0",
)
TRANSFORMER = (
    "--config.network=DiT",
    "--config.network.patch=4",
    "--config.network.width=8",
    "--config.network.depth=1",
    "--config.network.heads=1",
)
CLASSIFIER = (
    "--config.network.channels=8",
    "--config.network.channel_mult=(1,)",
    "--config.network.blocks=1",
    "--config.network.attention_resolutions=()",
    "--config.network.head_channels=8",
)


def blocks(language):
    return [
        block
        for page in PAGES
        for block in re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)
    ]


def commands():
    lines = "".join(blocks("bash")).splitlines()
    found = [
        line.removeprefix(".venv/bin/python -m cfg_jax ") for line in lines if "-m cfg_jax" in line
    ]
    return list(dict.fromkeys(found))


@pytest.fixture
def demo(trained, noisy, upscaler, tmp_path, monkeypatch):
    """A place with what the README's commands find: trained runs, the recipes, and pictures."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, "runs/digits")
    shutil.copytree(noisy, "runs/digits_classifier")
    shutil.copytree(upscaler, "runs/digits_upscale")
    shutil.copytree(ROOT / "configs", "configs")
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        folder = tmp_path / "PICTURES" / name
        folder.mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(0, 256, (40, 36, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    for name in ("samples", "reference"):
        np.savez(f"{name}.npz", rng.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8))
    Path("weights.pth").touch()
    monkeypatch.setattr(inception, "fetch_weights", lambda folder: Path("weights.pth"))
    monkeypatch.setattr(inception, "load_inception", lambda weights: fake_inception)
    return tmp_path


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_python_runs_as_written(demo, number):
    names: dict = {}
    exec(blocks("python")[number], names)
    x = np.asarray(names["x"])
    assert np.all(np.isfinite(x))
    if x.ndim > 2:  # pictures, clipped as the data are
        assert np.abs(x).max() <= 1.0


def test_the_pages_that_sample_pictures_are_among_them():
    assert sum("cfg_jax.load(" in block for block in blocks("python")) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("line", commands())
def test_commands_run(demo, line):
    """As written; training with a tiny network added, and into a directory of its own."""
    argv = shlex.split(line)
    if argv[0] == "train":
        tiny = CLASSIFIER if "classifier" in line else TRANSFORMER
        argv += [*SHORT, *tiny, "--workdir", "runs/new"]
    if "--replay-step" in argv:
        place = argv.index("--replay-step")
        main(argv[:place] + argv[place + 2 :])
        argv[place + 1] = "2"
    main(argv)
    if argv[0] == "train":
        assert Path("runs/new/checkpoints/2").is_dir()
    elif argv[0] == "sample":
        assert Path("grid.png").is_file()
    elif argv[0] == "score":
        assert Path("samples.npz.scores.json").is_file()
    else:
        workdir = argv[argv.index("--workdir") + 1]
        assert Path(workdir, "evaluation/report.json").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_it_names_exist(page):
    text = page.read_text()
    for path in re.findall(r"`((?:configs|experiments|cfg_jax|tests)/[\w./-]*)`", text):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"\]\((?!https?:)([^)#]*)\)", text):
        assert (page.parent / path).is_file(), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_it_names_exist(page):
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([\w-]+)", page.read_text(), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_page_on_recipes_names_every_kind():
    page = (ROOT / "docs" / "recipes.md").read_text()
    rows = re.findall(r"^\| `([\w.]+)` \| (`[A-Z]\w+`(?:, `\w+`)*) \|$", page, re.MULTILINE)
    groups = {"condition.NAME": "conditioner", "averages.NAME": "average"}
    told = {groups.get(path, path.split(".")[-1]): kinds for path, kinds in rows}
    assert told == {name: ", ".join(f"`{kind}`" for kind in s.kinds) for name, s in SLOTS.items()}


SMALL = {
    "configs/scenes_codec.py": (
        *("--config.train.steps=2", "--config.train.batch_size=8", "--config.data.scenes=64"),
        *("--config.network.codec.channels=4", "--config.train.sample_every=2"),
    ),
    "configs/scenes.py": (
        *("--config.train.steps=2", "--config.train.batch_size=8", "--config.data.scenes=64"),
        *("--config.codec.channels=4", "--config.network.width=16", "--config.network.depth=1"),
    ),
}


@pytest.mark.slow
def test_the_text_demo_trains_and_samples(tmp_path, monkeypatch):
    """The Makefile's lines, with tiny networks; `evaluate` has a test of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(ROOT / "configs", "configs")
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", "")
    (target,) = re.findall(r"^demo-text: venv\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    lines = target.replace("$(DEMO_TEXT)", "runs/scenes").splitlines()
    commands = [shlex.split(line)[3:] for line in lines if "-m cfg_jax" in line]
    assert [argv[0] for argv in commands] == ["train", "train", "sample", "evaluate"]
    for argv in commands[:3]:
        main(
            [*argv, *SMALL.get(argv[argv.index("--config") + 1] if "--config" in argv else "", ())]
        )
    assert Path("runs/scenes/samples.png").read_bytes().startswith(b"\x89PNG")
    report = commands[3]
    assert report[report.index("--w") + 1] == "0,1,3"
