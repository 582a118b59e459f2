"""Sources whose prepared data are kept apart from the user's."""

import pytest


@pytest.fixture
def source(tmp_path):
    """Makes a source of a kind, its prepared data below this test's own folder."""

    def make(kind, **fields):
        texts = {name: str(v) if hasattr(v, "parts") else v for name, v in fields.items()}
        return kind(dir=str(tmp_path / "prepared"), **texts)

    return make
