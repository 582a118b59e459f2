"""The search against memory whose largest batch is known."""

import pytest

from cfg_jax.planning import search
from cfg_jax.planning.search import Trial

LIMIT = 16e9


def look(start, memory, limit=LIMIT):
    made = []

    def measure(images):
        assert images not in made, "a batch was compiled twice"
        made.append(images)
        return int(memory(images)), memory(images) <= limit

    trials = search.largest(measure, start=start, limit=limit)
    assert [t.images for t in trials] == made
    assert len(trials) <= search.COMPILES
    return trials, max((t.images for t in trials if t.fits), default=0)


@pytest.mark.parametrize("start", [1, 2, 8, 32, 64, 500])
@pytest.mark.parametrize(("kept", "each"), [(5e9, 0.3e9), (1e9, 0.11e9), (15e9, 0.31e9)])
def test_affine_memory_is_solved(start, kept, each):
    largest = int((LIMIT - kept) / each)
    whole = largest // 8 * 8 if largest >= 8 else largest
    _, found = look(start, lambda n: kept + each * n)
    assert found == whole


def test_memory_in_tiles_is_solved():
    """As TPUs have it: 9 images cost what 16 do."""
    trials, found = look(8, lambda n: 4e9 + 0.2e9 * (-n // 8 * -8))
    assert found == 56
    assert len(trials) <= 4


def test_a_bend_is_found_by_the_trials_near_the_limit():
    _, found = look(8, lambda n: 4e9 + 0.1e9 * n + (0.2e9 * (n - 40) if n > 40 else 0))
    assert found == 64


def test_the_line_foretells_the_next_trial():
    trials, _ = look(8, lambda n: 5e9 + 0.3e9 * n)
    assert [t.predicted for t in trials[:2]] == [None, None]
    for trial in trials[2:]:
        assert trial.predicted == pytest.approx(trial.used)


def test_nothing_fits():
    trials, found = look(1, lambda n: 17e9 + n)
    assert (len(trials), found) == (1, 0)
    trials, found = look(16, lambda n: 17e9 + 1e9 * n)
    assert found == 0


def test_the_trials_that_decide():
    few, some, many = Trial(1, 100, True, None), Trial(10, 900, True, None), 3000
    assert search.affine([few, some, Trial(5, 500, True, None)], limit=1500) == (100, 80)
    over = [Trial(40, 6000, False, None), Trial(31, many, False, None)]
    assert search.affine([few, *over, some], limit=1500) == pytest.approx((-100, 100))
