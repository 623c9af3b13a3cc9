"""Columns come back as they were written, whole or not at all."""

import numpy as np
import pytest

from keras_fitnets.cache import storage
from keras_fitnets.cache.storage import ColumnStore

ROWS = 23
SHARD_SIZE = 5
ARRAYS = {
    "features": np.arange(ROWS * 6, dtype="float16").reshape(ROWS, 2, 3),
    "labels": np.arange(ROWS) * 7,
    "mask": np.arange(ROWS * 2).reshape(ROWS, 2) % 3 == 0,
}


def make(folder):
    columns = [[n, a.dtype.str, list(a.shape[1:])] for n, a in ARRAYS.items()]
    facts = {"columns": columns, "shard_size": SHARD_SIZE, "num_rows": ROWS}
    store = ColumnStore(folder, facts)
    store.write_manifest()
    return store


def shard(number):
    part = slice(number * SHARD_SIZE, (number + 1) * SHARD_SIZE)
    return {name: array[part] for name, array in ARRAYS.items()}


@pytest.fixture
def complete(tmp_path):
    store = make(tmp_path)
    with store.background_writer() as write:
        for number in range(5):
            write(number, shard(number))
    return store


def reopen(store):
    manifest = storage.read_manifest(store.directory)
    return ColumnStore(store.directory, manifest)


ORDERS = {
    "one shard": [6, 5, 9],
    "one shard, in order": [5, 6, 7, 8, 9],
    "several shards": [22, 0, 7, 13, 6, 0],
    "all": [*range(ROWS)],
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("column", ARRAYS)
def test_rows_are_read_in_any_order(order, column, complete):
    rows = np.array(ORDERS[order], "int64")
    read = reopen(complete).read_rows(column, rows)
    np.testing.assert_array_equal(read, ARRAYS[column][rows])
    assert read.dtype == ARRAYS[column].dtype
    # TensorFlow copies what does not start at a multiple of 64 bytes.
    assert read.ctypes.data % 64 == 0


def test_a_store_is_complete_with_its_last_column(complete):
    store = reopen(complete)
    assert store.is_complete() and store.shard_rows(4) == 3
    store.check_files()
    before = store.fingerprint()
    [path] = store.directory.glob("00002-01-*.npy")
    content = path.read_bytes()
    path.unlink()
    store = reopen(complete)
    assert not store.is_complete() and not store.has_shard(2)
    assert store.has_shard(1)
    others = {p: p.stat().st_mtime_ns for p in store.directory.glob("*.npy")}
    store.write_shard(2, shard(2))
    # The missing column alone is written, and to the same bits.
    assert path.read_bytes() == content
    assert {p: p.stat().st_mtime_ns for p in others} == others
    assert reopen(store).is_complete() and store.fingerprint() == before


def test_a_file_with_another_shape_is_damaged(complete):
    store = reopen(complete)
    store.manifest["columns"][1][2] = [2]
    with pytest.raises(ValueError, match="holds an array of shape .5,. in int64"):
        ColumnStore(store.directory, store.manifest).check_files()


def test_the_background_writer_raises_what_went_wrong(tmp_path, monkeypatch):
    store = make(tmp_path)

    def fail(number, arrays):
        raise OSError(f"no room for {number}")

    monkeypatch.setattr(store, "write_shard", fail)
    written = []
    with (
        pytest.raises(OSError, match="no room for 0"),
        store.background_writer() as write,
    ):
        for number in range(3):
            write(number, shard(number))
            written.append(number)
    assert written == [0]
    # The last shard too, which no other follows.
    with (
        pytest.raises(OSError, match="no room for 4"),
        store.background_writer() as write,
    ):
        write(4, shard(4))


def test_rows_are_split_at_the_limits_of_shards(tmp_path):
    parts = make(tmp_path).split(3, 9)
    expected = [(0, 3, 5, 0, 2), (1, 0, 5, 2, 7), (2, 0, 2, 7, 9)]
    found = [(n, a.start, a.stop, b.start, b.stop) for n, a, b in parts]
    assert found == expected


def test_a_cache_in_the_first_format_is_refused(tmp_path):
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(ValueError, match="earlier version .* another format.*delete"):
        storage.read_manifest(tmp_path)
