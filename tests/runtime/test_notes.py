"""A bar says what keeps it from moving."""

import io

from cfg_jax.runtime.notes import Bar


def shown(file):
    """What the bar shows last."""
    return file.getvalue().split("\r")[-1]


def test_it_compiles_until_it_moves_and_says_what_stops_it():
    file = io.StringIO()
    with Bar(total=4, file=file, mininterval=0, initial=1) as bar:
        assert "1/4" in shown(file)
        assert "compiling" in shown(file)
        bar.update()
        assert "2/4" in shown(file)
        assert "compiling" not in shown(file)
        bar.set_postfix(loss="0.5")
        with bar.during("saving"):
            assert "saving" in shown(file)
        bar.update()
        assert "saving" not in shown(file)
        assert "loss=0.5" in shown(file)


def test_one_that_is_not_to_be_seen_says_nothing():
    file = io.StringIO()
    with Bar(total=2, file=file, disable=True) as bar:
        bar.update()
        with bar.during("saving"):
            bar.update()
    assert file.getvalue() == ""
