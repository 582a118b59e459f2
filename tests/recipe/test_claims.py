"""A work directory belongs to the run whose checkpoints it holds."""

import pytest

from cfg_jax import recipe
from cfg_jax.parts import Facts


def described(channels=64, steps=100, shape=(8, 8, 1), fingerprint="ab12", devices=2):
    config = recipe.default()
    config.network.channels = channels
    config.train.steps = steps
    return recipe.Description(config, Facts(shape, ("0", "1")), fingerprint, devices)


@pytest.fixture
def workdir(tmp_path):
    """One whose run has saved a checkpoint."""
    recipe.claim(tmp_path, described())
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    return tmp_path


def test_a_directory_belongs_to_one_run(workdir):
    recipe.claim(workdir, described(steps=5))
    assert recipe.describe(workdir).config.train.steps == 5
    with pytest.raises(ValueError, match=r"channels: 64 -> 32.*another --workdir"):
        recipe.claim(workdir, described(channels=32))
    with pytest.raises(ValueError, match=r"the data: \(8, 8, 1\) of 2 classes.* -> \(4, 4, 1\)"):
        recipe.claim(workdir, described(shape=(4, 4, 1)))
    assert recipe.describe(workdir).config.train.steps == 5


@pytest.mark.parametrize("left", ["5", "5-2"])
def test_a_run_whose_checkpoints_are_all_in_quarantine_stays(tmp_path, left):
    recipe.claim(tmp_path, described())
    (tmp_path / "checkpoints" / "quarantine" / left).mkdir(parents=True)
    with pytest.raises(ValueError, match="channels: 64 -> 32"):
        recipe.claim(tmp_path, described(channels=32))


@pytest.mark.parametrize("left", [(), ("frozen",), ("quarantine/3.saving", "3.saving", "5.old")])
def test_a_run_without_a_checkpoint_gives_way(tmp_path, capsys, left):
    recipe.claim(tmp_path, described())
    for name in left:
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    recipe.claim(tmp_path, described())
    assert "".join(capsys.readouterr()) == ""
    recipe.claim(tmp_path, described(channels=32))
    assert "has no checkpoint of the run that began there" in "".join(capsys.readouterr())
    assert recipe.describe(tmp_path) == described(channels=32)


def test_a_config_of_something_else_stays(tmp_path):
    held = '{"architectures": ["CLIPModel"]}'
    (tmp_path / "config.json").write_text(held)
    with pytest.raises(ValueError, match=r"config\.json cannot be read: it has no 'arrays'"):
        recipe.claim(tmp_path, described())
    assert (tmp_path / "config.json").read_text() == held


def test_a_directory_that_cannot_be_made(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ValueError, match=r"config\.json cannot be written: .*/file is a file, not"):
        recipe.claim(file, described())


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("fingerprint", ("", "ab12", "ab12", "cd34"), "the files of the data have changed"),
        ("devices", (0, 2, 2, 1), "was last trained on 2 devices, now it is 1"),
    ],
)
def test_what_changed_that_may_is_said_once_and_gone_on_with(tmp_path, capsys, name, values, said):
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    told = []
    for value in values:
        recipe.claim(tmp_path, described(**{name: value}))
        told.append("".join(capsys.readouterr()))
        assert getattr(recipe.describe(tmp_path), name) == value
    assert [said in line for line in told] == [False, False, False, True]
