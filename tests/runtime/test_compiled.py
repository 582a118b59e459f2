"""Where compiled programs are kept: by default, by choice, and apart for each processor."""

import jax
import jax.numpy as jnp
import pytest

from cfg_jax.runtime import compiled


@pytest.fixture
def unchosen(monkeypatch, tmp_path):
    """A user without settings, whose cache is empty."""
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiled, "PROCESSORS", tmp_path / "cpuinfo")
    jax.config.update("jax_compilation_cache_dir", None)
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)


def test_they_are_kept_in_the_users_cache_by_processor(unchosen):
    found = []
    for text in ("flags : sse2 avx2\n", "flags : sse2 avx2\n", "flags : sse2\n", None):
        compiled.PROCESSORS.unlink(missing_ok=True)
        if text:
            compiled.PROCESSORS.write_text("processor : 0\n" + text)
        jax.config.update("jax_compilation_cache_dir", None)
        found.append(compiled.keep())
        assert jax.config.jax_compilation_cache_dir == str(found[-1])
    assert found[0] == found[1]
    assert len(set(found)) == 3
    assert {path.parent for path in found} == {unchosen / "cfg_jax" / "compiled"}


def test_the_users_own_place_stays(unchosen):
    jax.config.update("jax_compilation_cache_dir", "/mine")
    assert str(compiled.keep()) == jax.config.jax_compilation_cache_dir == "/mine"


def test_devices_wait_for_each_other_where_there_are_several():
    """An option that XLA does not know would be an error of compiling."""
    several, one = (jax.sharding.Mesh(jax.devices()[:n], ("batch",)) for n in (2, 1))
    options = compiled.patient(several.devices)
    assert compiled.patient(one.devices) == {}
    assert set(options) <= {compiled.PATIENCE}
    whole = jax.sharding.NamedSharding(several, jax.sharding.PartitionSpec())
    halves = jax.sharding.NamedSharding(several, jax.sharding.PartitionSpec("batch"))
    total = jax.jit(lambda x: x.sum(), out_shardings=whole, compiler_options=options)
    assert total(jax.device_put(jnp.arange(4.0), halves)) == 6.0
    assert not compiled._is_option("xla_of_this_name_there_is_none")
