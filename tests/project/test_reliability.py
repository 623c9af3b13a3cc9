"""The commands of the README's table, in short."""

from pathlib import Path

import pytest
from processes import Program

from benchmarks import kills
from benchmarks import long_run

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_killed_three_times_a_run_ends_with_the_same_bits(monkeypatch):
    """Each run is a fork of a process that has TensorFlow already."""

    def start(run):
        (run.directory / "marks").write_text("")
        command = ["-m", "benchmarks.kills", "--run", run.directory]
        return Program(command, folder=ROOT, log=run.directory / "log")

    monkeypatch.setattr(kills.Run, "start", start)
    result = kills.main(kills=3, seed=1)
    assert result["kills"] == 3


def test_kills_are_distinguished_from_an_end():
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
