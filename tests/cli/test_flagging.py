"""Flags: recipes by file and by name, their fields, help, paths, and mistakes in one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

from cfg_jax import recipe
from cfg_jax.cli import flagging, models, recipes

RECIPE = """from cfg_jax import recipe


def get_config():
    config = recipe.default()
    config.train.steps = 7
    config.sample.solver = recipe.node("Heun", gamma=0.1)
    return config
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(RECIPE)
    return path


def parsed(*argv):
    values = flags.FlagValues()
    flagging.define_config(values)
    flags.DEFINE_string("workdir", None, "where", flag_values=values)
    return flagging.parse(values, "train", "Trains.", [str(a) for a in argv])


def config(*argv):
    return flagging.config(parsed(*argv))


def helped(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        parsed(*argv)
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_a_file_and_its_fields(file):
    made = config("--config", file, "--config.train.batch_size=3", "--config.sample.w", "-1")
    assert (made.train.steps, made.train.batch_size, made.sample.w) == (7, 3, -1.0)
    assert made.sample.solver == recipe.node("Heun", gamma=0.1)


def test_fields_may_come_before_the_file_and_their_kinds(file):
    made = config(
        "--config.sample.solver.eta=0.5", "--config.sample.solver=DDIM", f"--config={file}"
    )
    assert made.sample.solver == recipe.node("DDIM", eta=0.5)


def test_other_flags_stay(file):
    values = parsed("--workdir", "runs/x", "--config.train.steps=3", "--config", file)
    assert (values["workdir"], values["config"]) == ("runs/x", str(file))
    assert flagging.config(values).train.steps == 3


def test_recipes_go_by_name(tmp_path, monkeypatch):
    (tmp_path / "tiny_one.py").write_text(RECIPE)
    monkeypatch.setattr(recipes, "PLACES", (tmp_path / "none", tmp_path))
    assert config("--config", "tiny_one").train.steps == 7
    with pytest.raises(ValueError, match=r"'tiny_oen' does not exist; did you mean tiny_one\?"):
        config("--config", "tiny_oen")
    with pytest.raises(ValueError, match=r"'zzz' does not exist; there are tiny_one"):
        config("--config", "zzz")


def test_the_tree_and_the_package_hold_recipes():
    root = Path(__file__).parents[2]
    assert (root / "configs", root / "cfg_jax/configs") == recipes.PLACES


def test_skip_bad(file):
    argv = ("--config", file, "--config.data=Folder", "--config.data.path=x", "--skip-bad")
    assert config(*argv).data.skip_bad is True


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ([], "give --config FILE, such as"),
        (["--config", "none.py"], "the config file 'none.py' does not exist"),
        (["--config", "/"], "the config file '/' does not exist"),
        (["--config", "x" * 5000], "does not exist"),
        (["--config", "a\0b"], "does not exist"),
        (["--config.train.steps"], "give --config.train.steps a value"),
        (["--config.train.steps", "--workdir"], "give --config.train.steps a value"),
        (["--config", "FILE", "--config.train.stepz=3"], "did you mean train.steps?"),
        (["--config", "FILE", "--config.sample.solver=rk4"], "config.sample.solver must be a solv"),
        (["--wrokdir", "x"], "Did you mean"),
        (["--skip-bad=maybe"], "flag --skip-bad=maybe: Non-boolean argument to boolean flag"),
        (["extra"], "unexpected argument 'extra'"),
    ],
)
def test_mistakes_are_refused(file, argv, line):
    with pytest.raises(ValueError, match=r"\S") as error:
        config(*[str(file) if argument == "FILE" else argument for argument in argv])
    assert line in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("config.train.steps = 7", "config.train.stepz = 7", 'mistake in line 6: Key "stepz"'),
        ("config.train.steps = 7", "config.train.steps = 7 7", "mistake in line 6: invalid syntax"),
        ("config.train.steps = 7", "1 / 0", "mistake in line 6: division by zero"),
        ('"Heun"', '"Huen"', "mistake in line 7: there is no kind 'Huen'; did you mean Heun?"),
        ("return config", "return 3", "returns no recipe, got 3"),
        ("get_config", "make_config", "has no function get_config"),
        (
            "return config",
            "import numpy; return numpy.zeros((99, 9))",
            "returns no recipe, got arr",
        ),
        ("return config", "return {i: 'x' * 99 for i in range(99)}", "returns no recipe, got {0: "),
        ("config.train.steps = 7", "raise SystemExit(0)", "mistake in line 6: it ends the process"),
        ("config.train.steps = 7", "raise GeneratorExit", "mistake in line 6: GeneratorExit"),
        ("def get_config", "async def get_config", "returns no recipe, got <coroutine"),
        (
            "config.train.steps = 7",
            "x = 'a'; x()",
            "mistake in line 6: 'str' object is not callable",
        ),
        ("config.train.steps = 7", "{}['a']", "mistake in line 6: a"),
        ("config.train.steps = 7", "raise ValueError('x ' * 9999)", "mistake in line 6: x x x"),
    ],
)
def test_a_mistake_in_the_file_is_one_line(file, old, new, line):
    file.write_text(RECIPE.replace(old, new))
    with pytest.raises(ValueError, match="config") as error:
        config("--config", file)
    assert line in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_help_lists_the_fields_with_a_line_on_each(capsys):
    out = helped(capsys, "--help")
    assert "usage: python -m cfg_jax train" in out
    assert "--workdir" in out
    (line,) = (line for line in out.splitlines() if line.strip().startswith("train.steps "))
    assert line.split(maxsplit=2) == [
        "train.steps",
        "100000",
        "Steps of the optimiser, at least 1.",
    ]
    assert "a solver: Ancestral, DDIM, Euler, Heun, DPMSolverPP, UniPC or module:Name" in out


def test_help_shows_the_recipes_own_values(capsys, file):
    argv = ("--help", "--config", file, "--config.data=Folder", "--config.condition.text=Vector")
    words = [line.split()[:2] for line in helped(capsys, *argv).splitlines()]
    for pair in (
        ["train.steps", "7"],
        ["sample.solver", "Heun"],
        ["sample.solver.gamma", "0.1"],
        ["data", "Folder"],
        ["condition.text", "Vector"],
    ):
        assert pair in words


def test_every_field_of_a_known_kind_has_a_meaning(capsys):
    for line in helped(capsys, "--help").split("Fields of")[1].splitlines():
        if line.startswith("  ") and "." in line.split()[0]:
            assert len(line) > 62, f"no word on {line}"


HELP = """import sys
from absl import flags
from cfg_jax.cli import flagging

values = flags.FlagValues()
flagging.define_config(values)
flagging.parse(values, "train", "Trains.", ["--help"])
"""


def test_nobody_reading_on_is_no_error(tmp_path):
    (tmp_path / "helps.py").write_text(HELP)
    reading, writing = os.pipe()
    os.close(reading)
    ran = subprocess.run(
        [sys.executable, tmp_path / "helps.py"],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert (ran.stderr, ran.returncode) == ("", 0)


def test_what_the_encoding_lacks_is_escaped(capfd, monkeypatch):
    with open(os.dup(1), "w", encoding="ascii") as output:
        monkeypatch.setattr(sys, "stdout", output)
        parsed("--workdir", "x")
        print("λ caf\udce9.npz", flush=True)
    assert capfd.readouterr().out == "\\u03bb caf\\udce9.npz\n"


def test_a_current_directory_that_is_gone_is_told(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(ValueError, match="the current directory does not exist any more"):
        parsed()


@pytest.mark.filterwarnings("error")
def test_a_value_that_python_would_warn_of_is_refused_in_silence(file):
    with pytest.raises(ValueError, match=r"config\.train\.steps .* got '3if'"):
        config("--config", file, "--config.train.steps=3if")


def test_kinds_come_from_the_current_directory(tmp_path, monkeypatch, file):
    (tmp_path / "here_kinds.py").write_text(
        "import flax.linen as nn\n\n\nclass Net(nn.Module):\n    width: int = 3\n\n"
        "    def __call__(self, z, logsnr, cond):\n        return z\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", os.getcwd())])
    made = config("--config", file, "--config.network=here_kinds:Net", "--config.network.width=4")
    assert made.network == recipe.node("here_kinds:Net", width=4)


def test_home_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert flagging.path({"workdir": "~/runs/x"}, "workdir") == tmp_path / "runs/x"
    assert flagging.path({"workdir": "a~/x"}, "workdir") == Path("a~/x")
    with pytest.raises(ValueError, match="give --workdir"):
        flagging.path({"workdir": None}, "workdir")
    with pytest.raises(ValueError, match="no home directory"):
        flagging.path({"workdir": "~no_such_user_at_all/x"}, "workdir")
    for address in ("s3://bucket/run", "http://host/x.npz"):
        with pytest.raises(ValueError, match=f"--out must be a path, .*; got {address}"):
            flagging.path({"out": address}, "out")
    with pytest.raises(ValueError, match="--workdir must be a path"):
        flagging.path({"workdir": "a\0b"}, "workdir")


def test_the_folder_of_a_file_is_made(tmp_path):
    flagging.folder_of(tmp_path / "a/b/c.png")
    assert (tmp_path / "a/b").is_dir()
    (tmp_path / "file").touch()
    (tmp_path / "link.png").symlink_to("d/e.png")
    flagging.folder_of(tmp_path / "link.png")
    assert (tmp_path / "d").is_dir()
    for name in ("file/c.png", "file/b/c.png"):
        with pytest.raises(
            ValueError, match=r"png cannot be written: .*/file is a file, not a fol"
        ):
            flagging.folder_of(tmp_path / name)


def test_data_without_a_path_have_not_moved():
    with pytest.raises(ValueError, match=r"--data-path is where .*, and Digits has no path"):
        models.data_of(recipe.default(), "/elsewhere")


def test_what_may_stand_at_a_path():
    assert recipes.kinds_of("sample.solver")[:2] == ("Ancestral", "DDIM")
    assert recipes.kinds_of("sample.steps") == recipes.kinds_of("condition") == ()
    fields = dict(recipes.fields_of("sample.solver"))
    assert fields["gamma"].startswith("Euler, Heun: ")
    assert fields["order"].startswith("DPMSolverPP, UniPC: ")


def test_lists():
    assert flagging.listed("0,0.3,1", "w") == (0.0, 0.3, 1.0)
    with pytest.raises(ValueError, match="--w takes numbers separated by commas, got 'a'"):
        flagging.listed("a", "w")
