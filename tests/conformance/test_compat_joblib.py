"""joblib on qmill: calls of `Parallel`, and arrays, with workers that all of these tests use."""

from __future__ import annotations

import os
import threading

import joblib
import numpy as np
import pytest
from joblib import Parallel, delayed, parallel_config
from joblib_support import NUM_BYTES, num_descriptors, pair_of_workers, pids

import qmill
import qmill.compat.joblib
from qmill.compat import _mapped_arrays


@pytest.fixture(scope="module")
def workers():
    """Two workers, which stay."""
    qmill.compat.joblib.register()
    with parallel_config(backend="qmill", n_jobs=2):
        yield pair_of_workers()
    qmill.compat.joblib.shutdown()


@pytest.fixture(autouse=True)
def backend(workers):
    with parallel_config(backend="qmill", n_jobs=2, max_nbytes=NUM_BYTES):
        yield
        assert pids() <= workers


# -- calls -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("return_as", ["list", "generator", "generator_unordered"])
def test_every_task_gives_its_result(return_as):
    results = Parallel(return_as=return_as)(delayed(pow)(i, 2, mod=1000) for i in range(500))
    results = sorted(results) if return_as == "generator_unordered" else list(results)
    wanted = [pow(i, 2, mod=1000) for i in range(500)]
    assert results == (sorted(wanted) if return_as == "generator_unordered" else wanted)


def test_functions_of_all_kinds_are_sent():
    offset = 10

    class Adder:
        def __init__(self, amount):
            self.amount = amount

        def add(self, number):
            return self.amount + number + offset

        __call__ = add

    functions = [lambda x: x + offset, Adder(1), Adder(2).add, abs]
    results = Parallel()(delayed(function)(-5) for function in functions)
    assert results == [5, 6, 7, 5]


def test_workers_stay_from_one_call_to_the_next(workers):
    assert len(workers) == 2
    assert pair_of_workers() == workers


@pytest.mark.parametrize(("n_jobs", "wanted"), [(None, 1), (3, 3), (-1, 0), (-2, -1), (-999, None)])
def test_numbers_of_jobs(n_jobs, wanted):
    num_cpus = joblib.cpu_count()
    if wanted is None:
        wanted = 1
    elif wanted <= 0:
        wanted = max(num_cpus + wanted, 1)
    with parallel_config(backend="qmill", n_jobs=1):
        assert joblib.effective_n_jobs(n_jobs) == wanted
    with pytest.raises(ValueError, match="n_jobs == 0"):
        Parallel(n_jobs=0)([delayed(abs)(1)])


def test_many_calls_leave_nothing():
    array = np.zeros(NUM_BYTES)

    def call(number):
        assert Parallel()(delayed(lambda a, n: n + number)(array, n) for n in range(4))

    for number in range(5):
        call(number)
    before = num_descriptors(), threading.active_count()
    for number in range(100):
        call(number)
    after = num_descriptors(), threading.active_count()
    assert all(now <= then for now, then in zip(after, before, strict=True)), (before, after)


# -- arrays ----------------------------------------------------------------------------------------


def seen_by_tasks(array, **options):
    def look(array):
        return type(array).__name__, array.flags.writeable, array.tolist()

    first, second = Parallel(**options)([delayed(look)(array)] * 2)
    assert first == second
    return first


BIG = np.arange(NUM_BYTES).reshape(100, -1)
RECORDS = np.zeros(NUM_BYTES, [("when", "M8[s]"), ("what", "S3")])


@pytest.mark.parametrize(
    "array",
    [BIG, np.asfortranarray(BIG), BIG.T, BIG[:, ::2], BIG[::-1], BIG.astype("M8[s]"), RECORDS]
    + [np.broadcast_to(np.arange(100), (50, 100))],
    ids=["C", "F", "transposed", "gaps", "backwards", "times", "records", "broadcast"],
)
def test_a_large_array_is_mapped_and_read_only(array):
    assert seen_by_tasks(array) == ("memmap", False, array.tolist())


def test_what_has_no_plain_content_or_is_small_is_sent():
    assert seen_by_tasks(np.arange(10)) == ("ndarray", True, list(range(10)))
    objects = np.array([None, "a"] * NUM_BYTES, dtype=object)
    assert seen_by_tasks(objects) == ("ndarray", True, objects.tolist())
    assert seen_by_tasks(np.empty((0, NUM_BYTES))) == ("ndarray", True, [])


@pytest.mark.parametrize("options", [{"max_nbytes": None}, {"mmap_mode": None}])
def test_mapping_can_be_switched_off(options):
    assert seen_by_tasks(BIG, **options) == ("ndarray", True, BIG.tolist())


@pytest.mark.parametrize("mode", ["r+", "w+"])
def test_tasks_write_into_one_array_and_the_programs_own_stays(mode):
    array = np.zeros(NUM_BYTES)

    def write(array, index):
        array[index] = 1
        return array.filename

    def read(array):
        return array.nonzero()[0].tolist()

    with Parallel(mmap_mode=mode) as parallel:
        parallel(delayed(write)(array, index) for index in range(10))
        assert not array.any()

    def write_and_read(array, index, done, permits):
        array[index] = 1
        done.put(index)
        permits.get()
        return read(array)

    done, permits = qmill.Queue(), qmill.Queue()
    results = Parallel(mmap_mode=mode, return_as="generator", batch_size=1)(
        delayed(write_and_read)(array, index, done, permits) for index in range(2)
    )
    assert {done.get(), done.get()} == {0, 1}
    for _ in range(2):
        permits.put(None)
    assert list(results) == [[0, 1]] * 2


def test_writing_into_a_copy_on_write_array_is_for_the_task_alone():
    array = np.zeros(NUM_BYTES)

    def write(array):
        before = array.sum()
        array += 1
        return before

    assert Parallel(mmap_mode="c")([delayed(write)(array)] * 4) == [0] * 4


def test_an_array_inside_of_other_objects_is_mapped():
    class Table:
        def __init__(self, columns):
            self.columns = columns

    table = Table({"a": BIG, "b": [BIG[0].copy(), BIG]})

    def look(table):
        columns = table.columns["a"], *table.columns["b"]
        return [type(column).__name__ for column in columns], columns[0] is columns[2]

    assert Parallel()([delayed(look)(table)] * 2) == [(["memmap", "ndarray", "memmap"], True)] * 2


def test_results_are_ordinary_arrays_that_can_be_written():
    def give_back(array):
        return array, array[5:], [np.asarray(array)], array + 1

    for array, part, [plain], other in Parallel()([delayed(give_back)(BIG)] * 2):
        assert {type(each) for each in (array, part, plain)} == {np.ndarray}
        assert array.flags.writeable
        assert np.array_equal(array, BIG)
        assert np.array_equal(part, BIG[5:])
        assert np.array_equal(other, BIG + 1)


def test_a_mapped_file_of_the_programs_own_is_mapped_in_the_worker(tmp_path):
    path = tmp_path / "array"
    mine = np.memmap(path, np.int64, "w+", shape=(100, 100))
    mine[:] = np.arange(10_000).reshape(100, 100)

    def mark(array, value):
        array[..., 0] = value
        return array.filename, array

    views = [mine, mine[3:], mine[3:].T, mine[50]]
    for value, view in enumerate(views):
        (filename, result), _ = Parallel(max_nbytes=None)([delayed(mark)(view, value)] * 2)
        assert filename == str(path)
        assert (view[..., 0] == value).all()
        assert isinstance(result, np.memmap)
        assert np.shares_memory(result, result.base)

    gaps = mine[::-2, ::3]

    def change(array):
        array += 1
        return array.tolist()

    before = gaps.tolist()
    [after] = Parallel(max_nbytes=None, n_jobs=2)([delayed(change)(gaps)])
    assert gaps.tolist() == after == [[each + 1 for each in row] for row in before]


def test_what_was_written_into_a_private_mapping_is_sent(tmp_path):
    np.arange(NUM_BYTES).tofile(tmp_path / "array")
    private = np.memmap(tmp_path / "array", np.int64, "c")
    private[:] = 7
    assert Parallel()([delayed(np.unique)(private)] * 2) == [np.array([7])] * 2


def test_an_array_that_changes_between_calls_is_sent_anew():
    array = np.zeros(NUM_BYTES)
    with Parallel() as parallel:
        for value in range(3):
            array[:] = value
            assert parallel([delayed(np.max)(array)] * 4) == [value] * 4


def test_the_files_of_arrays_are_in_the_folder_and_have_no_names(tmp_path):
    folder = tmp_path / "made" / "by joblib"

    def look(array):
        return array.filename, os.stat(array.filename).st_dev, os.readlink(array.filename)

    for _, device, target in Parallel(temp_folder=str(folder))([delayed(look)(BIG)] * 2):
        assert device == folder.stat().st_dev
        assert target.startswith(str(folder))
        assert target.endswith("(deleted)")
    assert list(folder.iterdir()) == []


def test_a_folder_without_room_sends_arrays_as_they_are(monkeypatch, caplog):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_mapped_arrays, "_open_nameless", refuse)
    assert seen_by_tasks(BIG) == ("ndarray", True, BIG.tolist())
    assert "No space left" in caplog.text


def test_files_of_arrays_are_closed_as_tasks_end(monkeypatch):
    """A call of many large arrays holds the files of a few, and after it none."""
    monkeypatch.setattr(_mapped_arrays, "MAX_FILES", 3)
    Parallel()([delayed(len)(BIG)] * 2)
    before = num_descriptors()
    most = 0

    def arrays():
        nonlocal most
        for number in range(50):
            most = max(most, len(os.listdir("/proc/self/fd")))
            yield delayed(np.max)(np.full(NUM_BYTES, number))

    assert Parallel(pre_dispatch="all", batch_size=1)(arrays()) == list(range(50))
    assert most <= before + 10
    assert num_descriptors() <= before + 1  # rings for arrays that were sent


# -- inside of others ------------------------------------------------------------------------------


def test_nested_calls_use_threads_and_then_none():
    def names():
        def inner():
            return type(joblib.parallel.get_active_backend()[0]).__name__

        mine = inner()
        [(second, [third])] = Parallel(n_jobs=2)(
            [delayed(lambda: (inner(), Parallel(n_jobs=2)([delayed(inner)()])))()]
        )
        return mine, second, third

    wanted = "ThreadingBackend", "SequentialBackend", "SequentialBackend"
    assert Parallel()([delayed(names)()] * 2) == [wanted] * 2


def test_threads_share_the_workers():
    outcomes = [[] for _ in range(4)]

    def call(outcome):
        with parallel_config(backend="qmill", n_jobs=2):
            outcome += Parallel()(delayed(abs)(-i) for i in range(200))

    threads = [threading.Thread(target=call, args=(outcome,)) for outcome in outcomes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [list(range(200))] * 4
