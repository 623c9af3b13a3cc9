"""What benchmarks say is what was measured."""

import json

import pytest

import benchmarks


def test_a_result_is_published_with_its_command_and_versions(tmp_path, capsys):
    path = tmp_path / "result.json"
    benchmarks.publish("python -m benchmarks.some", {"ratio": 1.5}, path)
    assert json.loads(path.read_text()) == json.loads(capsys.readouterr().out)
    result = json.loads(path.read_text())
    assert result["command"] == "python -m benchmarks.some"
    assert result["ratio"] == 1.5 and {"keras", "tensorflow", "python"} < set(result)


def test_the_picture_of_growth_is_drawn(tmp_path):
    from benchmarks import growth

    row = {"student + teacher": 2.0, "step": 2.1, "step on a cache": 1.0}
    rows = [{"at": at, **row} for at in (1, 2, 3)]
    growth.draw(dict.fromkeys(growth.SWEEPS, rows), tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("width", [8, 96])
def test_the_measured_networks_are_the_papers(width):
    from benchmarks import networks
    from keras_fitnets.report import multiplications

    student, teacher = networks.fitnet1(), networks.maxout_teacher(width)
    kernels = sum(w.shape.num_elements() for w in student.weights if len(w.shape) > 1)
    # Worked out from Table 7 of the paper, with 2 pieces at the end.
    assert (kernels, multiplications(student)) == (249_576, 30_150_024)
    near_the_papers = 600e6 < multiplications(teacher) < 800e6
    assert near_the_papers == (width == 96)
