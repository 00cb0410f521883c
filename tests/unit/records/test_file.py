"""The file of records: written, and read again."""

from __future__ import annotations

import csv
import os
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from qmill.jobs.fields import FIELDS, to_dict
from qmill.jobs.records import RecordLog, read_log

from .files import (
    DAY,
    KEYS,
    Unspeakable,
    ended_job,
    make_job,
    names_in,
    open_files,
    read,
    record,
    without_cr,
    write,
)

# -- the file -------------------------------------------------------------------------------------


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


def test_a_closed_log_holds_no_file_and_may_be_closed_again(path):
    before = open_files()
    log = RecordLog(path)
    assert open_files() == before + 1
    log.close()
    log.close()
    assert open_files() == before


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
