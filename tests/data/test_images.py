import json

import numpy as np
import pytest
from PIL import Image

from cfg_jax.data.images import enlarge, interleave, save_grid, tile

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("count", "columns"), [(1, 1), (5, 3), (6, 3), (2, 4)])
def test_each_image_has_its_place_on_a_white_page(count, columns, channels):
    images = RNG.integers(0, 255, (count, 4, 6, channels), dtype=np.uint8)
    page = tile(images, columns, padding=2)
    rows = -(-count // columns)
    assert page.shape == (rows * 6 + 2, columns * 8 + 2, channels)
    left = page.copy()
    for index, image in enumerate(images):
        y, x = 2 + index // columns * 6, 2 + index % columns * 8
        np.testing.assert_array_equal(page[y : y + 4, x : x + 6], image)
        left[y : y + 4, x : x + 6] = 255
    assert (left == 255).all()


def test_pixels_become_squares():
    images = RNG.integers(0, 256, (2, 3, 4, 3), dtype=np.uint8)
    np.testing.assert_array_equal(
        enlarge(images, 3), np.stack([np.kron(i, np.ones((3, 3, 1), np.uint8)) for i in images])
    )


def test_rows_take_turns():
    above, below = np.arange(5), np.arange(10, 15)
    assert interleave([above, below], 2).tolist() == [0, 1, 10, 11, 2, 3, 12, 13, 4, 14]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_is_the_tiles_of_enlarged_images(tmp_path, channels):
    images = RNG.integers(0, 256, (6, 8, 8, channels), dtype=np.uint8)
    save_grid(tmp_path / "grid.png", images, 3)
    page = np.asarray(Image.open(tmp_path / "grid.png")).reshape(2 * 34 + 2, 3 * 34 + 2, channels)
    np.testing.assert_array_equal(page, tile(enlarge(images, 4), 3, padding=2))
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]


def test_a_row_has_its_name_at_the_left_and_the_page_says_how_it_was_made(tmp_path):
    """The images stand where they stood, behind a margin; ink is beside the named rows alone."""
    images = RNG.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    told = {"seed": 3, "guidance.kind": "ClassifierFree", "name": "Zürich\n"}
    names = ["katze", "", "x" * 100]
    save_grid(tmp_path / "grid.png", images, 2, names=names, told=told)
    with Image.open(tmp_path / "grid.png") as picture:
        assert json.loads(picture.text["cfg_jax"]) == told
        page = np.asarray(picture)
    plain = tile(enlarge(images, 4), 2, padding=2)
    margin = page.shape[1] - plain.shape[1]
    np.testing.assert_array_equal(page[:, margin:], plain)
    assert 20 < margin < 400
    ink = [(page[y : y + 32, :margin] < 128).sum() for y in (2, 36, 70)]
    assert ink[1] == 0 < ink[0] < ink[2]
