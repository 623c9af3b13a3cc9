"""The checks that many functions share say what was passed and what is expected."""

import keras
import numpy as np
import pytest

from keras_fitnets.utils import checks


@pytest.mark.parametrize("value", [1, 7, np.int64(3), np.uint8(200)])
def test_an_integer_is_returned_as_a_python_int(value):
    assert type(checks.check_integer("n", value)) is int
    assert checks.check_integer("n", value) == value


@pytest.mark.parametrize(
    "value", [0, -1, True, np.bool_(True), 2.0, 2.5, "2", None, [2], float("nan")]
)
def test_what_is_no_integer_of_at_least_1_is_refused(value):
    with pytest.raises(ValueError, match="`n` must be an integer of at least 1") as e:
        checks.check_integer("n", value)
    assert str(e.value).endswith(f"received {value!r}.")


def test_the_minimum_is_allowed_and_stands_in_the_message():
    assert checks.check_integer("n", 0, minimum=0) == 0
    assert checks.check_integer("n", 5, minimum=5) == 5
    with pytest.raises(ValueError, match="at least 5; received 4. Pass more.$"):
        checks.check_integer("n", 4, minimum=5, advice="Pass more.")


def test_without_a_minimum_any_integer_is_one():
    assert checks.is_integer(-3, minimum=None)
    assert not checks.is_integer(-3.0, minimum=None)


def test_an_integer_is_positive_by_default():
    assert checks.is_integer(1)
    assert not checks.is_integer(0)


@pytest.mark.parametrize("value", ["c", 1, b"a", np.array(["a", "a"]), ["a"], None])
def test_what_is_no_choice_is_refused(value):
    with pytest.raises(ValueError, match=r"`v` must be one of \('a', 'b'\)") as e:
        checks.check_choice("v", value, ("a", "b"), "Take one.")
    assert str(e.value).endswith(f"received {value!r}. Take one.")


def test_none_is_a_choice_where_it_is_listed():
    assert checks.check_choice("v", None, (None, "a")) is None
    assert checks.check_choice("v", "a", (None, "a")) == "a"


@pytest.mark.parametrize("value", [0, 1, 0.5, 2e-30, 5e29, np.float32(3.0)])
def test_a_number_is_returned_as_a_python_float(value):
    number = checks.check_number("n", value)
    assert type(number) is float
    assert number == value


@pytest.mark.parametrize(
    "value",
    [
        -1,
        -1e-30,
        1e-31,
        1e-30,
        1e30,
        1e31,
        float("inf"),
        float("nan"),
        True,
        "1",
        None,
        [1, 2],
    ],
)
def test_what_is_no_finite_number_is_refused(value):
    with pytest.raises(ValueError, match="`n` must be one finite, non-negative number"):
        checks.check_number("n", value)


def test_zero_is_refused_where_a_number_must_be_positive():
    assert checks.check_number("n", 1, "positive") == 1.0
    with pytest.raises(ValueError, match="positive number; received 0"):
        checks.check_number("n", 0, "positive")


def test_callbacks_are_listed_in_any_form_that_fit_accepts():
    one, other = keras.callbacks.History(), keras.callbacks.Callback()
    assert checks.list_callbacks(None) == []
    assert checks.list_callbacks(one) == [one]
    assert checks.list_callbacks((one, other)) == [one, other]
    listed = keras.callbacks.CallbackList([one, other], add_history=False)
    assert checks.list_callbacks(listed) == listed.callbacks
