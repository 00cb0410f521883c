"""Torn rows are mended by the next writer."""

from __future__ import annotations

import pytest

from qmill.jobs.fields import FIELDS
from qmill.jobs.records import RecordLog, read_log

from .files import FIRST, KEYS, LAST, names_in, open_files, record, write


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
