"""Labels: what a person types, what the data hold, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.conditions import Label
from cfg_jax.parts import Classes, Facts

FACTS = Facts((8, 8, 1), ("ant", "bee", "cat"), {"kind": jax.ShapeDtypeStruct((), jnp.int32)})
KIND = Label().bind("kind", FACTS)


def test_the_data_tell_what_the_recipe_leaves_open():
    assert (KIND.num_classes, KIND.class_names, KIND.name) == (3, ("ant", "bee", "cat"), "kind")
    assert KIND.inlet == Classes(4)
    assert KIND.null == 3
    assert Label(num_classes=5).bind("kind", FACTS).num_classes == 5
    without = Label(has_null=False, p_uncond=0.0).bind("kind", FACTS)
    assert (without.inlet, without.null) == (Classes(3), None)


def test_fewer_classes_than_the_datas_are_refused():
    with pytest.raises(ValueError, match=r"kind.num_classes must be at least 3, .*; got 2$"):
        Label(num_classes=2).bind("kind", FACTS)
    assert Label(num_classes=3).bind("kind", FACTS).null == 3
    assert Label(num_classes=2).bind("kind", Facts((8, 8, 1))).null == 2


def test_it_reads_the_entry_of_its_own_name():
    batch = {"kind": jnp.array([2, 0]), "label": jnp.array([7, 7])}
    np.testing.assert_array_equal(KIND.read({}, batch, jnp.zeros((2, 1))), [2, 0])
    assert KIND.lend([{"kind": 1}, {"kind": 2}], None).tolist() == [1, 2]


@pytest.mark.parametrize(
    "value",
    [
        [0, 3, 2],
        (0, 3, 2),
        np.array([0, 3, 2], np.uint8),
        np.array([0, 3, 2], np.int64),
        jnp.array([0, 3, 2]),
        [np.int64(0), 3, 2],
    ],
)
def test_labels_are_given_as_any_whole_numbers(value):
    found = KIND.given(value)
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found, [0, 3, 2])


def test_labels_are_given_by_name_and_traced():
    assert KIND.given(["cat", "ant"]).tolist() == [2, 0]
    assert KIND.given(np.array(["bee"])).tolist() == [1]
    assert jax.jit(KIND.given)(jnp.array([1, 9])).tolist() == [1, 9]


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ([4], r"kind must lie in \[0, 2\], or be 3 for none; got 4"),
        ([-1], r"kind must lie in .*; got -1"),
        ([0, 2**40], r"kind must lie in .*; got 1099511627776"),
        (np.array([2**63], np.uint64), r"kind must lie in .*; got 9223372036854775808"),
        ([], r"kind must be \(batch,\) labels, one an example, got shape \(0,\)"),
        (2, r"kind must be \(batch,\) labels, one an example, got shape \(\)"),
        (jnp.eye(3), r"kind must be \(batch,\) labels, one an example, got shape \(3, 3\)"),
        ([1.0, 1.9], r"kind must be integers in \[0, 2\].*; got float64"),
        ([True], "kind must be integers .*; got bool"),
        ([None], "kind must be integers .*; got object"),
        ([["ant", "bee"], ["cat", "ant"]], r"kind must be \(batch,\) labels, .* shape \(2, 2\)"),
        (["dog"], "there is no class 'dog'; there are ant, bee, cat"),
        ("", "there is no class ''"),
        ([2**70], "kind must be integers"),
    ],
)
def test_what_is_no_label_is_refused(value, line):
    with pytest.raises(ValueError, match=line):
        KIND.given(value)


def test_a_network_without_a_null_is_given_none():
    made = Label(has_null=False, p_uncond=0.0).bind("kind", FACTS)
    with pytest.raises(ValueError, match=r"kind must lie in \[0, 2\]; got 3"):
        made.given([3])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("0-2", [0, 1, 2]),
        ("2,0-1", [2, 0, 1]),
        ("cat, ant,1", [2, 0, 1]),
        ("3", [3]),
        ("1-1", [1]),
    ],
)
def test_flags_take_numbers_ranges_and_names(text, found):
    assert KIND.parse(text) == found


@pytest.mark.parametrize(
    "text", ["dog", "2-1", "-1", "4", "0-9", "", "1,,2", "0-99999999999", "1.5"]
)
def test_other_flags_are_refused_by_name(text):
    with pytest.raises(ValueError, match=r"--kinds takes labels up to 2( \(3 for none\))?, ranges"):
        KIND.parse(text)


def test_what_is_sampled_where_nothing_is_named():
    assert KIND.every() == [0, 1, 2]
    assert KIND.titles([2, 0, 3]) == ["cat", "ant", "3"]
    np.testing.assert_array_equal(KIND.classes(["bee", "cat"]), [1, 2])


def test_a_file_of_samples_holds_labels():
    assert KIND.found({"arr_0": 1, "arr_1": np.array([1, 2])}).tolist() == [1, 2]
    assert KIND.found({"kind": np.array([0]), "arr_1": np.array([1])}).tolist() == [0]
    assert KIND.found({"arr_0": 1}) is None


def test_data_without_classes_are_refused():
    with pytest.raises(ValueError, match="kind is a Label, and the data have no classes"):
        Label().bind("kind", Facts((8, 8, 1)))
    with pytest.raises(ValueError, match="label has no num_classes yet"):
        _ = Label().inlet


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"p_uncond": -0.1}, r"p_uncond must lie in \[0, 1\], got -0.1"),
        ({"p_uncond": 1.5}, r"p_uncond must lie in \[0, 1\], got 1.5"),
        ({"p_uncond": float("nan")}, r"p_uncond must lie in \[0, 1\], got nan"),
        ({"num_classes": 0}, "num_classes must be a whole number from 1 to 1000000, got 0"),
        ({"has_null": False}, "p_uncond must be 0 where has_null is False"),
    ],
)
def test_values_out_of_range_are_refused(fields, line):
    with pytest.raises(ValueError, match=line):
        Label(**fields)
