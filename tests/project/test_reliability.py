"""The commands of the README's table, in short."""

import pytest

from benchmarks import kills
from benchmarks import long_run


@pytest.mark.slow
def test_killed_five_times_a_run_ends_with_the_same_bits():
    result = kills.main(kills=5, seed=1)
    assert result["kills"] == 5


def test_kills_are_told_apart_from_an_end():
    """So that the comparison above can fail."""
    with pytest.raises(SystemExit, match="ended differently"):
        kills.compare(0, {"kd": [1.0]}, {"kd": [2.0]})


@pytest.mark.slow
def test_a_long_run_is_traced_once_logged_whole_and_grows_no_memory():
    result = long_run.main(epochs=40)
    assert set(result["traces"].values()) == {1}
    assert result["values in the History, for each log"] == [40]
    assert result["lines in the CSV log of stage 2"] == 40
    for memory in result["memory in MB"].values():
        begin, end = memory.values()
        assert end - begin < 0.02 * begin
