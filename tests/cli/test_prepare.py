"""The command `prepare`, and the way from a folder of pictures to a grid of samples."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from recipes import write

CIFAR = Path(__file__).parents[3] / "shared" / "data" / "cifar10-test.zip"


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("cat", "dog", "emu"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{i}.png")
    return tmp_path / "pictures"


def folder(tmp_path, path):
    return (
        "--config",
        write(tmp_path),
        "--config.data=Folder",
        f"--config.data.path={path}",
        "--config.data.image_size=8",
    )


def test_it_prepares_both_splits(command, tmp_path, pictures):
    code, printed, err = command("prepare", *folder(tmp_path, pictures))
    assert code == 0, err
    lines = printed.strip().splitlines()
    assert [line.split(":")[0] for line in lines] == ["train", "test"]
    counts = [int(line.split()[1]) for line in lines]
    assert sum(counts) == 30
    assert all("8×8×3, 3 classes" in line for line in lines)


def test_unreadable_files_are_named_and_skipped_only_when_asked(
    refused, command, tmp_path, pictures
):
    (pictures / "dog" / "3.png").write_bytes(b"no picture")
    line = refused("prepare", *folder(tmp_path, pictures))
    assert "dog/3.png cannot be read" in line
    assert "--skip-bad" in line
    code, printed, _ = command("prepare", *folder(tmp_path, pictures), "--skip-bad")
    assert code == 0
    assert sum(int(line.split()[1]) for line in printed.strip().splitlines()) == 29


def test_a_folder_without_class_folders_has_no_labels_to_learn(refused, tmp_path, pictures):
    assert "label is a Label, and the data have no classes" in refused(
        "train", *folder(tmp_path, pictures / "cat"), "--workdir", tmp_path / "run"
    )


@pytest.mark.slow
def test_cifar_from_a_zip_trains_goes_on_and_samples(command, tmp_path):
    if not CIFAR.exists():
        pytest.skip("needs a zip of CIFAR-10's test images beside the repository, in shared/data")
    few = tmp_path / "few.zip"
    with zipfile.ZipFile(CIFAR) as every, zipfile.ZipFile(few, "w") as some:
        for info in [info for info in every.infolist() if not info.is_dir()][::50]:
            some.writestr(info, every.read(info))
    common = (
        *folder(tmp_path, few)[:-1],
        "--workdir",
        tmp_path / "run",
        "--config.network.patch=8",
    )
    for steps in (2, 4):
        code, _, err = command("train", *common, f"--config.train.steps={steps}")
        assert code == 0, err
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["2", "3", "4"]
    out = tmp_path / "grid.png"
    code, _, err = command("sample", "--workdir", tmp_path / "run", "--per-label", 2, "--out", out)
    assert code == 0, err
    assert Image.open(out).mode == "RGB"
