"""Sources whose prepared data are kept apart from the user's."""

import pytest

from cfg_jax.data import Catalogue


@pytest.fixture
def source(tmp_path):
    """Makes a source of a kind, its prepared data below this test's own folder."""

    def make(kind, **fields):
        texts = {name: str(v) if hasattr(v, "parts") else v for name, v in fields.items()}
        return kind(dir=str(tmp_path / "prepared"), **texts)

    return make


@pytest.fixture
def prepared(source):
    """Prepares a builder and returns the source that opens it."""

    def make(builder, **changes):
        settings = source(Catalogue, name=builder.name, **changes)
        builder(data_dir=settings.dir).download_and_prepare(file_format="array_record")
        return settings

    return make
