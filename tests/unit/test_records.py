"""The record of a job, and the file to which programs append them, killed or not."""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import operator
import os
import resource
import signal
import threading
import traceback
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from qmill.errors import LaneError
from qmill.jobs.fields import FIELDS, SCHEMA, exception_text, function_name, to_dict
from qmill.jobs.job import CANCELLED, FINISHED, Job, Options
from qmill.jobs.records import RecordLog, read_log
from qmill.packing.remote_errors import RemoteTraceback

from ..limits import _no_test_hangs  # noqa: F401 (a fixture)

DAY = datetime(2030, 1, 1)
LIMIT_S = 30.0

# What `Job.to_dict` promises: the keys of ezpq, then three more.
KEYS = [
    *("qid", "id", "name", "priority", "lane", "timeout", "function", "args", "kwargs"),
    *("submitted", "started", "ended", "processed", "exitcode", "cancelled", "runtime"),
    *("output", "exception", "callback", "state", "worker", "attempts", "host"),
]


class Owner:
    qid = "the queue"

    def log_later(self, what, error):
        raise AssertionError("no failure is told here")

    def cancel(self, job):
        return False

    def host_of(self, worker):
        return None if worker is None else "here"

    def wall_time(self, moment_s):
        return DAY + timedelta(seconds=moment_s)


def add(left, right=0):
    return left + right


def make_job(number=7, function=add, args=(1, 2), kwargs=None, **options):
    return Job(number, function, args, kwargs, 100, Options(**options), Owner(), 10.0)


def ended_job(result=None, error=None, state=FINISHED, failure=None, **options):
    job = make_job(**options)
    job.attempts, job.worker, job.exitcode = 2, "worker-3", int(error is not None)
    job._started, job._ended, job._failure = 11.0, 13.5, failure
    job._settle(state, result, error)
    return job


def raised(error, cause=None):
    """Return an exception that was raised here."""
    try:
        raise error from cause
    except BaseException as caught:
        return caught


# -- the record -----------------------------------------------------------------------------------


def test_the_keys_and_their_order():
    assert list(FIELDS) == KEYS
    assert list(to_dict(make_job())) == KEYS


def test_the_documentation_has_the_fields_of_the_schema():
    page = (Path(__file__).parents[2] / "docs" / "jobs.md").read_text(encoding="utf-8")
    rows = [f"| `{field.name}` | {field.type.value} | {field.meaning} |" for field in SCHEMA]
    assert "\n".join(["| field | type | meaning |", "| --- | --- | --- |", *rows]) + "\n\n" in page


def test_a_job_gives_its_record():
    job = ended_job(result=3, name="sum")
    assert job.to_dict() == to_dict(job)


def test_the_record_of_a_waiting_job():
    job = make_job(args=(1, [2]), kwargs={"right": 3}, lane=("a", 1), timeout=2.5)
    record = to_dict(job)
    assert list(record.pop("args")) == [1, [2]]
    assert record == {
        "qid": "the queue",
        "id": 7,
        "name": 7,
        "priority": 100,
        "lane": ("a", 1),
        "timeout": 2.5,
        "function": "add",
        "kwargs": {"right": 3},
        "submitted": DAY + timedelta(seconds=10),
        "started": None,
        "ended": None,
        "processed": None,
        "exitcode": None,
        "cancelled": False,
        "runtime": None,
        "output": None,
        "exception": None,
        "callback": None,
        "state": "waiting",
        "worker": None,
        "attempts": 0,
        "host": None,
    }


def test_the_record_of_a_job_that_is_done():
    result = object()
    job = ended_job(result=result, name="sum")
    job._processed = 14.0
    record = to_dict(job)
    assert record["name"] == "sum"
    assert record["output"] is result
    assert record["exception"] is None
    assert [record[key] for key in ("started", "ended", "processed")] == [
        DAY + timedelta(seconds=seconds) for seconds in (11, 13.5, 14)
    ]
    assert record["runtime"] == 2.5
    assert (record["state"], record["cancelled"], record["exitcode"]) == ("done", False, 0)
    assert (record["worker"], record["attempts"]) == ("worker-3", 2)


@pytest.mark.parametrize("failure", ["failed", "died", "timed out"])
def test_the_record_of_a_job_that_failed(failure):
    record = to_dict(ended_job(error=raised(ValueError("no good")), failure=failure))
    assert record["state"] == failure
    assert record["output"] is None
    assert record["exitcode"] == 1
    assert record["cancelled"] is False
    assert "no good" in record["exception"]
    assert "in raised" in record["exception"]


@pytest.mark.parametrize("error", [None, LaneError("the one before failed")])
def test_the_record_of_a_cancelled_job(error):
    record = to_dict(ended_job(error=error, state=CANCELLED))
    assert record["cancelled"] is True
    assert record["state"] == "cancelled"
    assert record["output"] is None
    assert error is None or "the one before failed" in record["exception"]


def test_the_record_of_a_job_that_let_go_of_its_function():
    job = ended_job(result=3)
    job._let_go()
    record = to_dict(job)
    assert (record["function"], record["args"], record["kwargs"]) == (None, None, None)
    assert record["output"] == 3


def test_the_record_has_what_the_callback_returned():
    job = ended_job(result=3)
    job._callback, job._processed = "called back", job._ended
    assert to_dict(job)["callback"] == "called back"


def test_times_are_naive():
    record = to_dict(ended_job())
    assert record["submitted"].tzinfo is None
    assert record["ended"].tzinfo is None


def test_reading_the_record_waits_for_nobody_and_raises_nothing():
    job = ended_job(error=SystemExit(3), failure="failed")
    assert "SystemExit" in to_dict(job)["exception"]


# -- names of functions ---------------------------------------------------------------------------


class Thing:
    def method(self):
        pass

    @classmethod
    def of_class(cls):
        pass

    @staticmethod
    def static():
        pass

    def __call__(self):
        pass


class Secretive(Thing):
    """Tells nothing of itself, as a proxy that stands for nothing yet."""

    def __repr__(self):
        raise ValueError("secret")

    def __getattr__(self, name):
        raise ValueError("secret")


def local_function():
    def inside():
        pass

    return inside


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (add, "add"),
        (len, "len"),
        (operator.add, "add"),
        (lambda: 1, "<lambda>"),
        (local_function(), "inside"),
        (Thing.method, "method"),
        (Thing().method, "method"),
        (Thing.of_class, "of_class"),
        (Thing.static, "static"),
        ("".join, "join"),
        (Thing, "Thing"),
        (Thing(), "Thing"),
        (operator.itemgetter(1), "itemgetter"),
        (functools.partial(add, 1), "add"),
        (functools.partial(functools.partial(add, 1), 2), "add"),
        (functools.partial(Thing().method), "method"),
        (functools.partial(Thing()), "Thing"),
        (functools.lru_cache(add), "add"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_function_is_called_by_the_last_part_of_its_name(function, name):
    assert function_name(function).split(".")[-1] == name


def test_no_function_has_no_name():
    assert function_name(None) is None


@pytest.mark.parametrize("wrap", [lambda thing: thing, functools.partial])
def test_a_callable_that_tells_nothing_has_the_name_of_its_class(wrap):
    assert "Secretive" in function_name(wrap(Secretive()))


def test_a_name_that_is_no_text_is_not_taken_for_one():
    odd = Thing()
    odd.__name__ = 3
    assert isinstance(function_name(odd), str)


# -- texts of exceptions --------------------------------------------------------------------------


def test_no_exception_has_no_text():
    assert exception_text(None) is None


def test_an_exception_that_was_raised_has_its_traceback():
    text = exception_text(raised(ValueError("no good")))
    assert "Traceback" in text
    assert "in raised" in text
    assert "ValueError: no good" in text


def test_an_exception_of_a_worker_has_the_traceback_from_there():
    there = "Traceback (most recent call last):\n  in far_away\nValueError: no good"
    text = exception_text(raised(ValueError("no good"), RemoteTraceback(there)))
    assert "in far_away" in text
    assert "in raised" not in text  # where the parent raised it again tells nothing


@pytest.mark.parametrize("error", [ValueError("no good"), KeyError("key"), SystemExit(3)])
def test_an_exception_that_was_not_raised_has_its_own_text(error):
    text = exception_text(error)
    assert type(error).__name__ in text
    assert str(error) in text
    assert "Traceback" not in text


def test_an_exception_without_a_message_is_named():
    assert "ValueError" in exception_text(ValueError())


class Unspeakable(Exception):
    def __str__(self):
        raise KeyError("unspeakable")

    __repr__ = __str__


class Evasive(Exception):
    """As an exception of a library that looks all attributes up elsewhere."""

    def __getattr__(self, name):
        raise RuntimeError(f"no {name}")


@pytest.mark.parametrize("kind", [Unspeakable, Evasive])
@pytest.mark.parametrize("bring", [lambda error: error, raised], ids=["made", "raised"])
def test_an_exception_that_cannot_be_told_is_named(kind, bring):
    assert kind.__name__ in exception_text(bring(kind("no good")))


# -- the file -------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path):
    return tmp_path / "jobs.csv"


def record(**values):
    return {**dict.fromkeys(FIELDS), **values}


def write(path, *records):
    log = RecordLog(path)
    try:
        log.write(list(records))
    finally:
        log.close()


def rows_of(data):
    """Parse what must be a header and whole rows."""
    text = data.decode()
    assert text.endswith("\r\n")
    header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    assert header == list(FIELDS)
    wrong = [row for row in rows if len(row) != len(FIELDS)]
    assert wrong == []
    return [dict(zip(FIELDS, row, strict=True)) for row in rows]


def read(path):
    return rows_of(path.read_bytes())


def names_in(path):
    return [row["name"] for row in read(path)]


def test_a_new_file_has_a_header_and_no_rows(path):
    RecordLog(path).close()
    assert path.read_bytes() == ",".join(KEYS).encode() + b"\r\n"


@pytest.mark.parametrize("convert", [str, Path, os.fsencode])
def test_a_path_may_be_given_as_usual(path, convert):
    write(convert(path), record(name="a"))
    assert names_in(path) == ["a"]


def test_the_header_comes_once(path):
    for name in "abc":
        write(path, record(name=name))
    assert names_in(path) == ["a", "b", "c"]


def test_rows_are_there_at_once_and_in_order(path):
    log = RecordLog(path)
    log.write([record(name=name) for name in "abc"])
    assert names_in(path) == ["a", "b", "c"]
    log.write([])
    log.write([record(name="d")])
    assert names_in(path) == ["a", "b", "c", "d"]
    log.close()


def test_an_empty_file_gets_a_header(path):
    path.touch()
    write(path, record(name="a"))
    assert names_in(path) == ["a"]


def test_the_records_of_jobs(path):
    write(path, to_dict(make_job(lane="x")), to_dict(ended_job(result=[1, "two"], name="sum")))
    waiting, done = read(path)
    assert waiting["started"] == waiting["output"] == waiting["worker"] == ""
    assert (waiting["qid"], waiting["id"], waiting["lane"]) == ("the queue", "7", "x")
    assert done["output"] == "[1, 'two']"
    assert done["runtime"] == "2.5"
    assert done["cancelled"] == "False"
    assert datetime.fromisoformat(done["ended"]) == DAY + timedelta(seconds=13.5)


TEXTS = [
    "",
    " ",
    "a,b",
    'say "a"',
    '"',
    '""',
    "a\nb",
    "a\r\nb",
    "a\rb",
    "\r",
    "\n",
    "\r\n",
    "\n\r",
    "\r\r\n\n",
    '",\r\n"',
    "'",
    "\\",
    "ä → 😀",
    "\ufeff",
    "\u2028\x85",
    "\t\x0b\x0c",
    "\x00",
    "#",
    "x" * 100_000,
]


def without_cr(text):
    return text.replace("\r\n", "\n").replace("\r", "\n")


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: repr(text)[:20])
@pytest.mark.parametrize("field", ["qid", "name", "attempts"])
def test_text_comes_out_as_it_went_in_but_for_kinds_of_line_ends(path, field, text):
    write(path, record(**{field: text}), record(name="next"))
    first, second = read(path)
    assert without_cr(first[field]) == without_cr(text)
    assert second["name"] == "next"
    assert [value for key, value in first.items() if key != field] == [""] * (len(FIELDS) - 1)


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: repr(text)[:20])
def test_the_end_of_a_row_stands_nowhere_inside_it(path, text):
    write(path, record(name=text, output=[text], exception=text, args=("\r\n",)))
    assert path.read_bytes().count(b"\r\n") == 2


def test_all_texts_in_one_file(path):
    write(path, *[record(output=text, callback=text) for text in TEXTS])
    assert [without_cr(row["output"]) for row in read(path)] == [*map(without_cr, TEXTS)]


@pytest.mark.parametrize("text", ["\ud800", "a\udcffb", "\udfff\ud800", '\udc22,"\n'], ids=ascii)
def test_what_cannot_be_encoded_costs_no_row(path, text):
    write(path, record(name=text, output="whole"), record(name="next"))
    first, second = read(path)
    assert first["output"] == "whole"
    assert first["name"] != ""
    assert second["name"] == "next"


class Dumb:
    def __str__(self):
        raise ValueError("says nothing")

    __repr__ = __str__


class Talkative:
    """Its text has all that a cell must not have."""

    def __str__(self):
        return 'a,"b"\r\nc'

    __repr__ = __str__


class NotText:
    def __str__(self):
        return 3

    __repr__ = __str__


class OddText(str):
    """Text that does not want to be told."""

    __slots__ = ()

    def __str__(self):
        raise ValueError("says nothing")


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "make",
    [
        Dumb,
        NotText,
        lambda: [Dumb()],
        lambda: {"a": NotText()},
        lambda: nested(100_000),
        lambda: Unspeakable(),
    ],
    ids=["itself", "not a text", "in a list", "in a dict", "nested", "an exception"],
)
@pytest.mark.parametrize("field", ["name", "args", "output", "callback"])
def test_a_value_that_cannot_be_told_costs_no_row(path, field, make):
    write(path, record(**{field: make()}, worker="w"), record(name="next"))
    first, second = read(path)
    assert first["worker"] == "w"
    assert first[field] != ""
    assert second["name"] == "next"


def test_text_of_a_class_of_its_own(path):
    write(path, record(name=OddText("odd"), worker="w"))
    assert read(path)[0]["worker"] == "w"


def test_the_text_of_a_value_is_quoted(path):
    write(path, record(name=Talkative(), output=[Talkative()]))
    [row] = read(path)
    assert without_cr(row["name"]) == 'a,"b"\nc'
    assert without_cr(row["output"]) == '[a,"b"\nc]'


@pytest.mark.parametrize("where", ["no/such/folder/jobs.csv", "."])
def test_a_file_that_cannot_be_opened(tmp_path, where):
    with pytest.raises(OSError):
        RecordLog(tmp_path / where)


def open_files():
    return len(os.listdir("/proc/self/fd"))


def test_a_closed_log_holds_no_file_and_may_be_closed_again(path):
    before = open_files()
    log = RecordLog(path)
    assert open_files() == before + 1
    log.close()
    log.close()
    assert open_files() == before


# -- torn rows ------------------------------------------------------------------------------------


FIRST = record(name="first", output='a\nb,"c"')
LAST = record(name="last", args=("x", 'y"'), exception='line\r\nline "two",\n', output="ä😀")


def test_a_torn_last_row_is_cut_off_wherever_it_was_torn(path):
    write(path, FIRST)
    before = path.read_bytes()
    write(path, LAST)
    whole = path.read_bytes()
    assert whole.startswith(before)
    for end in range(len(before), len(whole)):
        path.write_bytes(whole[:end])
        RecordLog(path).close()
        assert path.read_bytes() == before, f"torn after {end - len(before)} bytes"
    RecordLog(path).close()
    assert path.read_bytes() == before


def test_a_row_follows_a_torn_one(path):
    write(path, FIRST)
    before = path.read_bytes()
    write(path, LAST)
    whole = path.read_bytes()
    for end in range(len(before), len(whole) + 1):
        path.write_bytes(whole[:end])
        write(path, record(name="next"))
        left = ["first", "last"] if end == len(whole) else ["first"]
        assert names_in(path) == [*left, "next"]


def test_a_torn_header_is_written_again(path):
    RecordLog(path).close()
    header = path.read_bytes()
    for end in range(len(header) + 1):
        path.write_bytes(header[:end])
        RecordLog(path).close()
        assert path.read_bytes() == header, f"torn after {end} bytes"


@pytest.mark.parametrize("size", [4095, 4096, 65_535, 65_536, 65_537, 1_000_000])
def test_a_torn_row_of_any_size_is_cut_off(path, size):
    write(path, FIRST)
    before = path.read_bytes()
    write(path, dict.fromkeys(FIELDS, ("ä\n" * size)[: size // len(FIELDS)]))
    whole = path.read_bytes()
    for end in (len(before) + 1, len(whole) - size // 2, len(whole) - 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        RecordLog(path).close()
        assert path.read_bytes() == before


@pytest.mark.parametrize("pages", [1, 2, 3])
@pytest.mark.parametrize("more", range(-3, 4))
def test_the_end_of_the_last_whole_row_is_found_wherever_it_lies(path, pages, more):
    """It may lie across two of the pieces in which somebody looks for it."""
    write(path, FIRST)
    before = path.read_bytes()
    path.write_bytes(before + b'"' * (pages * 65_536 + more))
    RecordLog(path).close()
    assert path.read_bytes() == before


def test_whole_rows_are_never_touched(path):
    write(path, FIRST, LAST)
    whole = path.read_bytes()
    RecordLog(path).close()
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "convert",
    [
        lambda data: data.replace(b"\r\n", b"\n"),
        lambda data: data.replace(
            b",".join(map(str.encode, KEYS)), b'"' + b'","'.join(map(str.encode, KEYS)) + b'"'
        ),
    ],
    ids=["line ends", "quotes"],
)
def test_a_log_that_an_editor_has_written_keeps_its_rows(path, convert):
    """An editor or `git` made LF of CR LF: that is no torn row, and no reason to lose all."""
    write(path, FIRST, record(name="second"))
    converted = convert(path.read_bytes())
    path.write_bytes(converted)
    write(path, record(name="next"))
    assert path.read_bytes().startswith(converted)
    assert [row["name"] for row in read_log(path)] == ["first", "second", "next"]


HEADER = ",".join(KEYS)

OTHERS = {
    "another header": (b"name,price\napple,3\npear,4\n", "'name,price', which lacks qid, id, prio"),
    "no end of line": (b"name,price\r\napple,3\r\npear,4", "'name,price', which lacks"),
    "one letter": (b"x", "'x', which lacks qid, id, name and"),
    "an empty line": (b"\n", "'', which lacks"),
    "an older log": (
        HEADER.removesuffix(",host").encode() + b"\r\n",
        "which lacks host. It was not changed",
    ),
    "a later log": (HEADER.encode() + b",more\r\n", "has more columns, or another order"),
    "another order": (f"id,{HEADER.replace(',id', '')}\n".encode(), "or another order"),
    "a mark in front": (b"\xef\xbb\xbf" + HEADER.encode() + b"\r\n", "which lacks qid. It was not"),
    "bytes": (bytes(range(256)), "it is not text"),
    "zeros": (bytes(100), "it is not text"),
    "Latin-1": ("für,alle\n".encode("latin-1"), "it is not text"),
    "UTF-16": (HEADER.encode("utf-16"), "it is not text"),
    "a long line": (b"no end, " * 100_000, "'no end, no end,"),
}


@pytest.mark.parametrize("theirs", OTHERS)
def test_a_file_of_somebody_else_is_refused_as_it_is(path, theirs):
    content, why = OTHERS[theirs]
    path.write_bytes(content)
    files = open_files()
    with pytest.raises(ValueError, match="Name a new file, or move this one away") as info:
        RecordLog(path)
    assert why in str(info.value)
    assert str(path) in str(info.value)
    assert len(str(info.value)) < 500 + len(str(path))
    assert path.read_bytes() == content
    assert open_files() == files


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
    """Who opens it must not take a row that another is just writing for a torn one."""

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
    """Who has the file open goes on, and need not be one who opens it anew."""
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


# -- reading ----------------------------------------------------------------------------------


def written(path, *names):
    log = RecordLog(path)
    log.write([dict.fromkeys(FIELDS) | {"name": n, "state": "done"} for n in names])
    log.close()
    return path.read_bytes()


NAMES = ["plain", 'a "quote", and a comma', "two\nlines", "x" * 100_000, "", "\u00e9"]


def test_a_log_is_read_as_it_was_written(tmp_path):
    written(tmp_path / "log.csv", *NAMES)
    rows = list(read_log(tmp_path / "log.csv"))
    assert [row["name"] for row in rows] == NAMES
    assert list(rows[0]) == list(FIELDS)


@pytest.mark.parametrize("end", [b"\r\n", b"\n"], ids=["as written", "by an editor"])
def test_a_row_that_is_cut_anywhere_is_left_out(tmp_path, end):
    data = written(tmp_path / "log.csv", *NAMES[:3]).replace(b"\r\n", end)
    start = data[: -len(end)].rindex(end) + len(end)
    if end == b"\n":  # the last row has two lines
        start = data[: start - 1].rindex(end) + len(end)
    for size in range(start, len(data)):
        (tmp_path / "log.csv").write_bytes(data[:size])
        names = [row["name"] for row in read_log(tmp_path / "log.csv")]
        assert names == NAMES[:2]


def test_a_long_cell_is_cut_and_a_reader_with_the_usual_limit_reads_it(tmp_path):
    written(tmp_path / "log.csv", "x" * 200_000)
    with open(tmp_path / "log.csv", encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["name"] == "x" * 100_000 + "... (100000 characters left out)"


FORMULAS = ["=HYPERLINK(1)", "+1", "-1", "@SUM(1)", "\tx", "\r=1"]


def test_formulas_are_texts_in_a_log_for_a_spreadsheet(tmp_path):
    record = dict.fromkeys(FIELDS) | {"exitcode": -9, "priority": -0.5}
    for spreadsheet, before in [(False, ""), (True, "'")]:
        log = RecordLog(tmp_path / f"{spreadsheet}.csv", spreadsheet=spreadsheet)
        log.write([record | {"name": name} for name in [*FORMULAS, "plain", "a=b"]])
        log.close()
        rows = list(read_log(tmp_path / f"{spreadsheet}.csv"))
        expected = [before + name.replace("\r", "\n") for name in FORMULAS]
        assert [row["name"] for row in rows] == [*expected, "plain", "a=b"]
        assert {(row["exitcode"], row["priority"]) for row in rows} == {("-9", "-0.5")}


def test_what_is_no_log_is_told(tmp_path):
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="not a log of jobs: its columns are"):
        list(read_log(tmp_path / "notes.csv"))
    with pytest.raises(FileNotFoundError):
        list(read_log(tmp_path / "nowhere.csv"))
    (tmp_path / "empty.csv").touch()
    assert list(read_log(tmp_path / "empty.csv")) == []
