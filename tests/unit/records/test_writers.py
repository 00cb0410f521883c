"""Several writers of one file, and writers that are killed."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import threading
import traceback

import pytest

from qmill.jobs.records import RecordLog

from .files import FIRST, LAST, names_in, read, record, rows_of, without_cr, write

LIMIT_S = 30.0

# -- several writers ------------------------------------------------------------------------------


def big_text(writer, number):
    """Text of a size of its own, with line ends and quotes."""
    line = f'{writer}/{number} says "a, b"\n'
    return line * (1 + (number * 7919) % 400)


def write_some(log, writer, count):
    for number in range(count):
        log.write([record(name=writer, id=number, output=big_text(writer, number))])


def check_rows(path, expected):
    """Check that each writer's rows are there, once and in order."""
    found = {}
    for row in read(path):
        writer, number = row["name"], int(row["id"])
        assert row["output"] == big_text(writer, number)
        found.setdefault(writer, []).append(number)
    assert found == {writer: list(range(count)) for writer, count in expected.items()}


class Threads:
    """Writers in this process; `start` runs a function, `finish` waits for all."""

    def __init__(self):
        self._threads, self._errors = [], []

    def start(self, function, *args):
        thread = threading.Thread(target=self._run, args=(function, *args), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self, function, *args):
        try:
            function(*args)
        except BaseException as error:
            self._errors.append(error)

    def finish(self):
        for thread in self._threads:
            thread.join(LIMIT_S)
        assert self._errors == []


class Processes:
    """Writers in forked processes, with nothing but what is under test."""

    def __init__(self):
        self.pids = []

    def start(self, function, *args):
        pid = os.fork()
        if not pid:
            code = 1
            try:
                function(*args)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        self.pids.append(pid)

    def finish(self):
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in self.pids]
        assert codes == [0] * len(codes)


@pytest.fixture(params=[Threads, Processes])
def writers(request):
    return request.param()


def test_writers_with_a_log_each(path, writers):
    def run(writer):
        log = RecordLog(path)
        write_some(log, writer, 100)
        log.close()

    for writer in "abcd":
        writers.start(run, writer)
    writers.finish()
    check_rows(path, dict.fromkeys("abcd", 100))


def test_writers_with_one_log(path, writers):
    log = RecordLog(path)
    for writer in "abcd":
        writers.start(write_some, log, writer, 100)
    writers.finish()
    log.close()
    check_rows(path, dict.fromkeys("abcd", 100))


def test_writers_that_open_and_close_it_for_each_row(path, writers):
    """A process that opens the log takes no row that another one is writing for a torn row."""

    def run(writer):
        for number in range(60):
            write(path, record(name=writer, id=number, output=big_text(writer, number)))

    for writer in "abc":
        writers.start(run, writer)
    writers.finish()
    check_rows(path, dict.fromkeys("abc", 60))


@pytest.mark.parametrize("round_", range(10))
def test_a_header_is_written_once_when_all_open_a_new_file_at_once(path, writers, round_):
    ready, go = os.pipe()

    def run():
        os.read(ready, 1)
        RecordLog(path).close()

    for _ in range(4):
        writers.start(run)
    os.write(go, b"....")
    writers.finish()
    os.close(ready)
    os.close(go)
    assert read(path) == []


def test_a_log_that_others_have_open_is_mended_by_who_opens_it(path):
    log = RecordLog(path)
    log.write([FIRST])
    tear(path)
    other = RecordLog(path)
    other.write([record(name="other")])
    log.write([record(name="log")])
    log.close()
    other.close()
    assert names_in(path) == ["first", "other", "log"]


def tear(path):
    """Leave what a writer leaves that is killed in the middle of a row."""
    with open(path, "ab") as file:
        file.write(b'killed,7,"in the midd')


def test_another_program_that_is_killed_does_not_spoil_the_next_row(path):
    """A process that has the log open goes on; it need not be one that opens it anew."""
    log = RecordLog(path)
    log.write([FIRST])
    tear(path)
    log.write([record(name="next")])
    log.close()
    assert names_in(path) == ["first", "next"]


def fill_the_disk(path, expected):
    """Write a row of which a piece finds room, then, with room again, another."""
    log = RecordLog(path)
    log.write([FIRST])
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, hard))
    with expected:
        log.write([LAST])
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    log.write([record(name="next")])
    log.close()


def in_process(function, *args):
    processes = Processes()
    processes.start(function, *args)
    processes.finish()


def test_a_row_that_finds_no_room_raises(path):
    in_process(fill_the_disk, path, pytest.raises(OSError))


def test_a_row_that_finds_no_room_does_not_spoil_the_next(path):
    in_process(fill_the_disk, path, contextlib.suppress(OSError))
    assert names_in(path) == ["first", "next"]


# -- killed writers -------------------------------------------------------------------------------


# A row of many pages, for the system to stop in the middle; the csv module reads 128 KiB a cell.
LARGE_FIELDS = ("args", "kwargs", "output", "exception", "callback")


def large_text(number):
    return f'row {number}: "quoted", and\r\na line end\n' * 3000


def write_until_killed(path, told):
    log = RecordLog(path)
    number = 0
    while True:
        text = large_text(number)
        os.write(told, b".")
        log.write([record(id=number, name="killed", **dict.fromkeys(LARGE_FIELDS, text))])
        number += 1


def kill_while_it_writes(path, rows):
    """Kill a writer when it has begun with so many rows, most likely in the middle of one."""
    hear, told = os.pipe()
    processes = Processes()
    processes.start(write_until_killed, path, told)
    os.close(told)
    for _ in range(rows):
        assert os.read(hear, 1) == b"."
    [pid] = processes.pids
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    os.close(hear)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL


@pytest.mark.parametrize("round_", range(8))
def test_a_writer_that_is_killed_leaves_whole_rows_to_who_opens_next(path, round_):
    for kill in range(6):
        rows = (kill + round_) % 5
        before = path.read_bytes() if kill else b""
        kill_while_it_writes(path, rows)
        RecordLog(path).close()
        data = path.read_bytes()
        assert data.startswith(before)
        new = rows_of(data)[len(rows_of(before)) if before else 0 :]
        assert len(new) >= rows - 1
        assert [int(row["id"]) for row in new] == list(range(len(new)))
        for row in new:
            text = without_cr(large_text(int(row["id"])))
            assert [row[field] == text for field in LARGE_FIELDS] == [True] * len(LARGE_FIELDS)


def test_a_writer_that_is_killed_does_not_keep_others_from_writing(path):
    log = RecordLog(path)
    for number in range(10):
        kill_while_it_writes(path, 1)
        write(path, record(name=f"after {number}"))
    log.write([record(name="the end")])
    log.close()
    names = [name for name in names_in(path) if name != "killed"]
    assert names == [*(f"after {number}" for number in range(10)), "the end"]


def test_a_log_may_have_columns_of_its_own(tmp_path):
    path = tmp_path / "log.csv"
    for number in (1, 2):
        log = RecordLog(path, ["id", "square"], lambda job: {"id": job, "square": job * job})
        log.write([log.record_of(number)])
        log.close()
    assert path.read_bytes() == b"id,square\r\n1,1\r\n2,4\r\n"
    path.write_bytes(b"id,square\r\n1,1\r\n2,")
    RecordLog(path, ["id", "square"]).close()
    assert path.read_bytes() == b"id,square\r\n1,1\r\n"
