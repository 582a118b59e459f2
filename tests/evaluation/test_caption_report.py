"""The report on captions: four files that hold the scores, and pictures that say what they show."""

import json
import math
import types

import numpy as np
import pytest
from PIL import Image

from cfg_jax.data.samples import to_uint8
from cfg_jax.data.scene_captions import parsed
from cfg_jax.evaluation import CaptionEvaluation, CaptionJudge, Captions, write_caption_report
from cfg_jax.evaluation import caption_report as room

TEXTS = ("a red three", "a blue seven in the top left", "a green one above a white two")
WS = (3.0, 0.0, 1.0)
NAMES = (
    "caption_accuracy",
    "caption_accuracy_held_out",
    "caption_accuracy_1",
    "caption_accuracy_2",
    "caption_accuracy_3",
    "frechet_distance",
    "diversity",
)


def evaluation(**more):
    """Scores at random; sample c at w is of the grey c / 4 - w / 8, real ones are black."""
    rng = np.random.default_rng(0)
    rows = [
        {"w": w, **dict(zip(NAMES, rng.uniform(size=7).tolist(), strict=True)), **more} for w in WS
    ]
    captions = Captions(
        TEXTS,
        tuple(map(parsed, TEXTS)),
        np.array([False, True, False]),
        -np.ones((3, 32, 32, 3), np.float32),
    )
    judge = CaptionJudge(types.SimpleNamespace(held_out_accuracy=0.9825), None)
    reference = dict.fromkeys(NAMES, 0.75) | more
    grey = np.ones((3, 32, 32, 3)) * np.arange(3)[:, None, None, None] / 4
    return CaptionEvaluation(rows, reference, judge, captions, {w: grey - w / 8 for w in WS})


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    directory = tmp_path_factory.mktemp("report") / "made"
    write_caption_report(directory, evaluation(), {"samples_per_w": 3, "seed": 4})
    return directory


def test_json_holds_exactly_the_scores(report):
    read = json.loads((report / "report.json").read_text())
    assert {path.name for path in report.iterdir()} == {
        "report.json",
        "report.md",
        "accuracy.png",
        "samples_by_w.png",
    }
    assert read["rows"] == evaluation().rows
    assert read["reference"] == evaluation().reference
    assert read["detector"] == {"held_out_accuracy": 0.9825}
    assert read["settings"] == {"samples_per_w": 3, "seed": 4}
    assert read["date"].endswith("+00:00")


def cells_of(text):
    lines = [line.strip("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")] for line in lines]


def test_markdown_tabulates_the_same_numbers(report):
    text = (report / "report.md").read_text()
    heads, rule, *table = cells_of(text)
    assert len(heads) == len(rule) == 9
    assert [row[0] for row in table] == ["3", "0", "1", "real scenes"]
    for cells, row in zip(table, evaluation().rows, strict=False):
        w, s, *shares, distance, diversity = cells
        assert (float(w), float(s)) == (row["w"], 1 + row["w"])
        for cell, name in zip(shares, NAMES, strict=False):
            assert float(cell.rstrip("%")) == pytest.approx(100 * row[name], abs=0.05)
        assert float(distance) == pytest.approx(row["frechet_distance"], rel=1e-3)
        assert float(diversity) == pytest.approx(row["diversity"], abs=5e-4)
    assert "98.25%" in text
    assert "- seed: 4" in text


def test_scores_that_are_measured_beside_have_a_column(tmp_path):
    write_caption_report(tmp_path, evaluation(r_precision=0.5, my_score=0.25), {})
    heads, _, *table = cells_of((tmp_path / "report.md").read_text())
    assert (heads[7], heads[-1]) == ("R-precision ↑", "my score")
    assert {(row[7], row[-1]) for row in table} == {("50.0%", "0.25")}


@pytest.mark.parametrize("name", ["accuracy.png", "samples_by_w.png"])
def test_figures_are_readable_images(report, name):
    with Image.open(report / name) as image:
        assert min(image.size) > 300
        assert len(set(image.convert("L").tobytes())) > 10


def test_the_curves_go_through_the_rows_in_order_of_w(report):
    figure = room.accuracy_figure(json.loads((report / "report.json").read_text()))
    drawn = [line for axes in figure.axes for line in axes.lines]
    ordered = sorted(evaluation().rows, key=lambda row: row["w"])
    for name, (curve, real) in zip(NAMES, zip(drawn[::2], drawn[1::2], strict=True), strict=False):
        np.testing.assert_allclose(curve.get_xydata(), [[row["w"], row[name]] for row in ordered])
        assert set(real.get_ydata()) == {0.75}
    assert len(drawn) == 10


def test_a_row_is_a_caption_and_a_column_a_strength():
    axes = room.samples_figure(evaluation()).axes[0]
    page = np.asarray(axes.images[0].get_array())
    rows = [text.get_text().replace("\n", " ") for text in axes.get_yticklabels()]
    assert rows == [TEXTS[0], f"{TEXTS[1]} *", TEXTS[2]]
    columns = [text.get_text() for text in axes.get_xticklabels()]
    assert columns == ["real", "w = 0", "w = 1", "w = 3"]
    for row, y in enumerate(axes.get_yticks()):
        found = [page[int(y), int(x), 0] for x in axes.get_xticks()]
        want = to_uint8(np.array([-1, *(row / 4 - w / 8 for w in (0, 1, 3))]))
        np.testing.assert_array_equal(found, want)


def test_a_failed_report_leaves_the_last_one_whole(tmp_path):
    write_caption_report(tmp_path, evaluation(), {})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="JSON"):
        write_caption_report(tmp_path, evaluation(diversity=math.nan), {})
    with pytest.raises(TypeError):
        write_caption_report(tmp_path, evaluation(), {"solver": object()})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
