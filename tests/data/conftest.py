"""Data configs whose prepared data is kept apart from the user's."""

import pytest
from ml_collections import ConfigDict


@pytest.fixture
def config(tmp_path):
    """Makes a data config, its prepared data below this test's own folder."""

    def make(name, **changes):
        config = ConfigDict(
            {
                "name": name,
                "path": "",
                "test_path": "",
                "dir": str(tmp_path / "prepared"),
                "image_size": 0,
                "channels": 3,
                "held_out": 0.1,
                "skip_bad": False,
                "flip": False,
                "workers": 0,
            }
        )
        config.update({key: str(v) if hasattr(v, "parts") else v for key, v in changes.items()})
        return config

    return make
