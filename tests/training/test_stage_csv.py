"""One CSV file has the logs of all stages, each row once, also after a kill."""

import csv

import keras
import pytest
import tiny

import keras_fitnets as kf

pytestmark = pytest.mark.usefixtures("eager")


class Kill(keras.callbacks.Callback):
    """Ends training in an epoch of a stage, after the rows of that epoch."""

    def __init__(self, stage, epoch):
        super().__init__()
        self.place = stage, epoch

    def on_epoch_end(self, epoch, logs=None):
        if (self.model.stage, epoch) == self.place:
            raise KeyboardInterrupt


def train(path, *callbacks, separator=",", append=False, **options):
    x, y = tiny.data()
    options = {"hint_epochs": 2, "kd_epochs": 3, "verbose": 0, **options}
    logger = keras.callbacks.CSVLogger(str(path), separator, append)
    keras.utils.set_random_seed(0)
    return kf.fit_stagewise(
        *(tiny.make_distiller(regressor_seed=3), x, y),
        callbacks=[logger, *callbacks],
        **options,
    )


def read(path, separator=","):
    return list(csv.DictReader(path.read_text().splitlines(), delimiter=separator))


def places(rows):
    return [(row["stage"], int(row["epoch"])) for row in rows]


USUAL = [("hint", 0), ("hint", 1), ("kd", 0), ("kd", 1), ("kd", 2)]


@pytest.mark.parametrize("separator", [",", ";"])
def test_a_file_has_all_logs_of_both_stages(tmp_path, separator):
    path = tmp_path / "log.csv"
    history = train(path, separator=separator)
    rows = read(path, separator)
    assert places(rows) == USUAL
    names = {"epoch", "stage", "loss", "hint_loss", "kd_loss", "label_loss"}
    assert set(rows[0]) == names
    for stage, logs in (("hint", history.hint), ("kd", history.kd)):
        own = [row for row in rows if row["stage"] == stage]
        for name in names - {"epoch", "stage"}:
            expected = logs.history.get(name, ["NA"] * len(own))
            assert [row[name] for row in own] == list(map(str, expected))


def test_a_second_run_begins_anew_unless_it_appends(tmp_path):
    path = tmp_path / "log.csv"
    train(path)
    train(path, hint_epochs=1)
    assert len(read(path)) == 4
    train(path, append=True)
    assert places(read(path))[4:] == USUAL


@pytest.mark.slow
@pytest.mark.parametrize("place", [("hint", 0), ("hint", 1), ("kd", 0), ("kd", 1)])
@pytest.mark.parametrize("append", [False, True])
def test_a_resumed_run_goes_on_in_the_file(tmp_path, place, append):
    train(tmp_path / "whole.csv")
    path, options = tmp_path / "log.csv", {"checkpoint_dir": tmp_path / "run"}
    with pytest.raises(KeyboardInterrupt):
        train(path, Kill(*place), append=append, **options)
    train(path, Kill("never", 0), append=append, **options)
    assert places(read(path)) == USUAL
    assert read(path) == read(tmp_path / "whole.csv")
    # A complete run that is called again has nothing to add.
    train(path, Kill("never", 0), append=append, **options)
    assert places(read(path)) == USUAL


def test_stages_of_one_kind_have_numbers(tmp_path):
    path = tmp_path / "log.csv"
    stages = [kf.Stage("hint", 1), kf.Stage("kd", 1), kf.Stage("kd", 1)]
    train(path, stages=stages, hint_epochs=None, kd_epochs=None)
    assert places(read(path)) == [("hint 1", 0), ("kd 2", 0), ("kd 3", 0)]


def test_stages_with_loggers_of_their_own_share_a_file(tmp_path):
    path = tmp_path / "log.csv"
    stages = [
        kf.Stage(kind, 1, callbacks=keras.callbacks.CSVLogger(str(path)))
        for kind in ("hint", "kd")
    ]
    x, y = tiny.data()
    kf.fit_stagewise(tiny.make_distiller(), x, y, stages=stages, verbose=0)
    assert places(read(path)) == [("hint", 0), ("kd", 0)]


def test_rows_of_a_plain_fit_are_kept(tmp_path):
    path = tmp_path / "log.csv"
    x, y = tiny.data()
    model = tiny.make_distiller(stage="kd")
    model.fit(x, y, callbacks=[keras.callbacks.CSVLogger(str(path))], verbose=0)
    train(path, append=True)
    assert places(read(path)) == [("NA", 0), *USUAL]


def test_a_logger_of_the_users_own_class_is_left_alone(tmp_path):
    class Own(keras.callbacks.CSVLogger):
        """Writes nothing but its own."""

        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, {"mine": epoch})

    x, y = tiny.data()
    logger = Own(str(tmp_path / "own.csv"), append=True)
    kf.fit_stagewise(tiny.make_distiller(), x, y, 1, 2, callbacks=[logger], verbose=0)
    assert [row["mine"] for row in read(tmp_path / "own.csv")] == ["0", "0", "1"]


def test_a_backup_that_knows_no_stages_is_refused(tmp_path):
    """After an interruption stage 1 would be given what stage 2 has saved."""
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(ValueError, match=r"BackupAndRestore.*checkpoint_dir"):
        train(tmp_path / "log.csv", backup)
    train(tmp_path / "log.csv", backup, hint_epochs=0)
