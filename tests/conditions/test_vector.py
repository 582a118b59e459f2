"""Vectors of the data: their length, their null, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax import parts
from cfg_jax.conditions import Vector
from cfg_jax.parts import Facts

FACTS = Facts(
    (8, 8, 1),
    (),
    {
        "pose": jax.ShapeDtypeStruct((3,), jnp.float32),
        "grade": jax.ShapeDtypeStruct((), jnp.int32),
    },
)
POSE = Vector().bind("pose", FACTS)


def test_the_data_tell_the_length():
    assert (POSE.length, POSE.inlet, POSE.null) == (3, parts.Vector(3), 0.0)
    batch = {"pose": jnp.ones((2, 3))}
    np.testing.assert_array_equal(POSE.read({}, batch, None), np.ones((2, 3)))
    lent = POSE.lend([{"pose": np.arange(3.0)}, {"pose": np.ones(3)}], None)
    np.testing.assert_array_equal(lent, [[0, 1, 2], [1, 1, 1]])


@pytest.mark.parametrize(
    ("vector", "name", "line"),
    [
        (Vector(), "label", "label is a Vector, and the data have no such array"),
        (Vector(), "grade", r"grade is a Vector, and the data have grade of shape \(\)"),
        (
            Vector(length=4),
            "pose",
            r"pose is a Vector of length 4, and the data have pose of .*\(3,",
        ),
    ],
)
def test_data_without_such_vectors_are_refused(vector, name, line):
    with pytest.raises(ValueError, match=line):
        vector.bind(name, FACTS)


@pytest.mark.parametrize("value", [[[1, 2, 3]], np.ones((1, 3), np.float64), jnp.ones((1, 3))])
def test_vectors_are_given_as_numbers(value):
    found = POSE.given(value)
    assert (found.dtype, found.shape) == (jnp.float32, (1, 3))


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (np.ones((2, 4)), r"pose must be numbers of \(batch, 3\), got float64 of \(2, 4\)"),
        (np.ones(3), r"pose must be numbers of \(batch, 3\), got float64 of \(3,\)"),
        ([["a", "b", "c"]], r"pose must be numbers of \(batch, 3\), got <U1"),
        (np.ones((1, 3), complex), r"pose must be numbers of \(batch, 3\), got complex128"),
        (np.ones((1, 3), bool), r"pose must be numbers of \(batch, 3\), got bool"),
        ([[1.0, np.nan, 0.0]], "pose must be finite"),
        ([[1.0, np.inf, 0.0]], "pose must be finite"),
        ([[1.0, 1e39, 0.0]], "pose must be finite"),
    ],
)
def test_what_is_no_vector_is_refused(value, line):
    with pytest.raises(ValueError, match=line):
        POSE.given(value)


def test_flags_name_a_file(tmp_path):
    path = tmp_path / "poses.npz"
    np.savez(path, pose=np.ones((2, 3), np.float32))
    np.testing.assert_array_equal(POSE.parse(str(path)), np.ones((2, 3)))
    np.savez(path, pose=np.ones((2, 4)))
    with pytest.raises(ValueError, match=r"poses.npz: pose must be numbers of \(batch, 3\)"):
        POSE.parse(str(path))
    np.savez(path, other=np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"poses.npz.*pose"):
        POSE.parse(str(path))


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"length": 0}, "length must be a whole number from 1 to 1000000, got 0"),
        ({"p_uncond": 2.0}, "p_uncond must lie"),
    ],
)
def test_values_out_of_range_are_refused(fields, line):
    with pytest.raises(ValueError, match=line):
        Vector(**fields)
