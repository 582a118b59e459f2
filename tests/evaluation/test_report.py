"""The report's four files: what they hold, and what is left when one cannot be written."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from cfg_jax.data.media import Picture, Sound, Video
from cfg_jax.data.samples import to_uint8
from cfg_jax.evaluation import Row, Scores, write_report
from cfg_jax.evaluation.report import samples_figure, tradeoff_figure

REFERENCE = Scores(label_accuracy=0.99, inception_score=9.75, frechet_distance=0.12)
WS = [1.0, 0.0, -0.5, 4.0]
TITLES = ["0", "1", "two"]


def rows():
    rng = np.random.default_rng(0)
    return [
        Row(w=w, label_accuracy=a, inception_score=9 + b, frechet_distance=c)
        for w, (a, b, c) in zip(WS, rng.uniform(size=(len(WS), 3)).tolist(), strict=True)
    ]


def examples(channels=1):
    """Row w shows the grey w / 4 everywhere, and its columns get darker by 0.1."""
    shade = {w: np.array([w / 4 - 0.1 * column for column in range(3)]) for w in WS}
    return {w: np.ones((3, 8, 8, channels)) * s[:, None, None, None] for w, s in shade.items()}


def write(directory, **changes):
    arguments = {
        "rows": rows(),
        "reference": REFERENCE,
        "held_out_accuracy": 0.9875,
        "settings": {"steps": 256, "solver": "ancestral", "samples_per_w": 500, "seed": 0},
        "medium": Picture((8, 8, 1)),
        "examples": examples(),
        "titles": TITLES,
    }
    arguments |= changes
    write_report(directory, arguments.pop("rows"), **arguments)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    directory = tmp_path_factory.mktemp("report") / "made"
    write(directory)
    return directory


def test_the_directory_holds_four_files_and_no_rest(report):
    names = {path.name for path in report.iterdir()}
    assert names == {"report.json", "report.md", "tradeoff.png", "samples_by_w.png"}


def test_json_holds_exactly_the_rows(report):
    read = json.loads((report / "report.json").read_text())
    assert read["rows"] == [dataclasses.asdict(row) for row in rows()]
    assert [list(row) for row in read["rows"]] == [list(Row.__dataclass_fields__)] * len(WS)
    assert read["reference"] == dataclasses.asdict(REFERENCE)
    assert read["classifier"] == {"held_out_accuracy": 0.9875}
    assert read["settings"]["steps"] == 256
    assert {"cfg_jax", "jax", "flax", "numpy"} <= set(read["versions"])
    assert read["date"].endswith("+00:00")


def test_markdown_tabulates_the_same_numbers(report):
    lines = (report / "report.md").read_text().splitlines()
    table = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("|")
    ]
    assert len(table) == 2 + len(WS) + 1
    for cells, row in zip(table[2:], rows(), strict=False):
        w, s, accuracy, inception, frechet = cells
        assert (float(w), float(s)) == (row.w, 1 + row.w)
        assert float(accuracy.rstrip("%")) == pytest.approx(100 * row.label_accuracy, abs=0.005)
        assert float(inception) == pytest.approx(row.inception_score, abs=0.0005)
        assert float(frechet) == pytest.approx(row.frechet_distance, rel=1e-3)
    assert table[-1][0] == "real training images"
    text = "\n".join(lines)
    assert "s = 1 + w" in text
    assert "98.75%" in text
    assert "- steps: 256" in text


@pytest.mark.parametrize("name", ["tradeoff.png", "samples_by_w.png"])
def test_figures_are_readable_images(report, name):
    with Image.open(report / name) as image:
        assert min(image.size) > 300
        assert len(set(image.convert("L").tobytes())) > 10


def test_the_curve_goes_through_the_rows_in_order_of_w():
    axes = tradeoff_figure(rows(), REFERENCE).axes[0]
    ordered = sorted(rows(), key=lambda row: row.w)
    curve, star = (line.get_xydata() for line in axes.lines)
    np.testing.assert_allclose(
        curve, [[row.inception_score, row.frechet_distance] for row in ordered]
    )
    np.testing.assert_allclose(star, [[9.75, 0.12]])
    assert [text.get_text() for text in axes.texts] == ["-0.5", "0", "1", "4"]


def test_labels_of_close_points_do_not_cover_each_other():
    close = [
        Row(w=w, label_accuracy=1.0, inception_score=9.99 + 1e-4 * w, frechet_distance=1 + 0.01 * w)
        for w in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    ]
    figure = tradeoff_figure(close, REFERENCE)
    figure.draw_without_rendering()
    words = [Text.get_window_extent(label) for label in figure.axes[0].texts]
    assert len(words) == 6
    assert not any(a.overlaps(b) for a, b in itertools.combinations(words, 2))


def test_a_single_strength_can_be_drawn(tmp_path):
    write(tmp_path, rows=rows()[:1], examples={1.0: examples()[1.0]})
    assert (tmp_path / "tradeoff.png").exists()


@pytest.mark.parametrize("channels", [1, 3])
def test_samples_stand_in_rows_of_ascending_w(channels):
    figure = samples_figure(Picture((8, 8, channels)), examples(channels), TITLES)
    axes = figure.axes[0]
    page = np.asarray(axes.images[0].get_array())
    for y, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True):
        for column, x in enumerate(axes.get_xticks()):
            w = float(label.get_text().removeprefix("w = "))
            grey = np.clip(w / 4 - 0.1 * column, -1, 1)
            expected = np.round(127.5 * (grey + 1))
            np.testing.assert_array_equal(page[int(y), int(x)], [expected] * 3)
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "w = -0.5",
        "w = 0",
        "w = 1",
        "w = 4",
    ]


def page_of(figure):
    """A figure's picture, and the first pixel of each cell by its row's title and its column."""
    axes = figure.axes[0]
    page = np.asarray(axes.images[0].get_array())
    rows = [text.get_text() for text in axes.get_yticklabels()]
    return page, dict(zip(rows, axes.get_yticks(), strict=True)), axes.get_xticks()


def test_the_frames_of_a_video_stand_side_by_side():
    """Frame f of the sample in column c is of the grey c + f / 10, at every w."""
    shade = np.arange(3)[:, None] - 1 + np.arange(4) / 10
    videos = np.broadcast_to(shade[:, :, None, None, None], (3, 4, 8, 8, 1))
    beside = {"held out": np.zeros((3, 4, 8, 8, 1))}
    figure = samples_figure(Video((4, 8, 8, 1)), {0.0: videos}, TITLES, beside=beside)
    page, rows, columns = page_of(figure)
    assert list(rows) == ["held out", "w = 0"]
    for column, x in enumerate(columns):
        middles = [int(x + 0.5 + 8 * (frame - 1.5)) for frame in range(4)]
        found = page[int(rows["w = 0"]), middles, 0]
        np.testing.assert_array_equal(found, to_uint8(shade[column]))
        assert set(page[int(rows["held out"]), middles, 0]) == {128}


def test_sounds_are_drawn_as_spectrograms():
    """Silence is black; a tone at a quarter of the rate is a line in the middle."""
    sounds = np.stack([np.zeros(256), np.sin(np.pi / 2 * np.arange(256))])[..., None]
    figure = samples_figure(Sound((256, 1), 8000), {1.0: sounds}, ["silence", "tone"])
    page, rows, (silence, tone) = page_of(figure)
    middle = int(rows["w = 1"])
    assert page[middle - 20 : middle + 20, int(silence)].max() == 0
    column = page[middle - 20 : middle + 20, int(tone), 0]
    assert abs(int(column.argmax()) - 20) <= 1
    assert column.max() > 230
    assert column[:10].max() < 100


def test_a_failed_report_leaves_the_last_one_whole(tmp_path):
    write(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    bad = [dataclasses.replace(row, frechet_distance=math.nan) for row in rows()]
    with pytest.raises(ValueError, match="JSON"):
        write(tmp_path, rows=bad)
    with pytest.raises(TypeError):
        write(tmp_path, settings={"solver": object()})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": []}, "at least one row"),
        ({"examples": {}}, "rows at other w"),
        ({"titles": ["0"]}, "3 examples at w"),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "none", **changes)
    assert not (tmp_path / "none").exists()
