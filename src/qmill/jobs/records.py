"""The log of a queue: a CSV file of the records of its jobs.

Each row is written by one call, under a lock of the file, and ends with CR LF. No row has CR LF
inside. If a writer is killed within a row, the file does not end with CR LF: the next writer cuts
the torn row off before it writes. A file whose first row is not the header of these columns belongs
to another program, and is refused.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import os
from typing import TYPE_CHECKING, Any

from ..system import native
from .fields import FIELDS, to_dict

try:
    import fcntl
except ImportError:  # not POSIX
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .job import Job

_END = b"\r\n"

CELL_CHARACTERS = 100_000
"""Longer cells are cut, since Python's `csv` and other readers refuse cells of over 131,072."""

_HEADER_BYTES = 1 << 16  # the header is looked for in this many bytes at most
_SHOWN_CHARACTERS = 200
_SHOWN_COLUMNS = 3


def read_log(path: str | os.PathLike[str]) -> Iterator[dict[str, str]]:
    """Read the rows of a log, one after another; rows that were cut short are left out.

    Args:
        path: A file that `RecordLog` has written, or a CSV file with the same columns.

    Yields:
        The texts of each row, by the names of the columns.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is not a log of jobs.
    """
    with open(path, "rb") as file:
        end = _END if file.readline().endswith(_END) else b"\n"  # "\n" if an editor has saved it
        file.seek(0)
        names: list[str] | None = None
        row = b""
        for line in file:
            row += line
            if not row.endswith(end) or (end != _END and row.count(b'"') % 2):
                continue
            cells = _cells(row)
            row = b""
            if names is None:
                names = cells
                if "state" not in names or "submitted" not in names:
                    raise ValueError(
                        f"{os.fspath(path)!r} is not a log of jobs: its columns are {names}"
                    )
            elif cells:
                yield dict(zip(names, cells, strict=False))


def _cells(row: bytes) -> list[str]:
    before = csv.field_size_limit(len(row) + 1)
    try:
        return next(csv.reader(io.StringIO(row.decode("utf-8", "replace"), newline="")), [])
    finally:
        csv.field_size_limit(before)


class RecordLog:
    """A CSV file of records, to which several queues and programs may append.

    Args:
        path: The file. If it does not exist or is empty, it gets a header.
        fields: The columns.
        record_of: Returns a job's record, a dict with these fields.
        spreadsheet: Whether to put an apostrophe before texts that a spreadsheet would take for a
            formula, such as `=HYPERLINK(...)`, so that it shows them as text.

    A cell of more than `CELL_CHARACTERS` characters is cut, and ends with the number left out.

    Raises:
        OSError: The file cannot be opened or written.
        ValueError: The file has another header, or is not text; it was not changed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        fields: Sequence[str] = FIELDS,
        record_of: Callable[[Job], dict[str, Any]] = to_dict,
        spreadsheet: bool = False,
    ) -> None:
        self._fields = fields
        self._spreadsheet = spreadsheet
        self._header = _row(fields)
        self.record_of = record_of
        self._file = open(path, "a+b", buffering=0)  # noqa: SIM115
        try:
            with _Locked(self._file):
                self._check_header()
                self._write([])
        except BaseException:
            self._file.close()
            raise

    def write(self, records: list[dict[str, Any]]) -> None:
        """Append a row for each record.

        Raises:
            OSError: The file cannot be written. If the disk is full, no part of a row stays in it.
        """
        rows = [
            _row([record[field] for field in self._fields], self._spreadsheet) for record in records
        ]
        with _Locked(self._file):
            self._write(rows)

    def close(self) -> None:
        """Close the file."""
        with _threads_lock:  # closing the file would release this process's locks of it
            self._file.close()

    def _check_header(self) -> None:
        """Raise ValueError if the first row is not the header; any line ends are accepted."""
        if os.fstat(self._file.fileno()).st_size == 0:  # a new file, or a device
            return
        start = self._read(0, len(self._header))
        if self._header.startswith(start):  # the header, or the beginning of a torn one
            return
        first = self._read(0, _HEADER_BYTES).partition(b"\n")[0]
        if not _is_text(first):
            why = "it is not text"
        elif (cells := _cells(first)) != list(self._fields):
            shown = ",".join(cells)[:_SHOWN_CHARACTERS]
            why = f"its header is {shown!r}, {_difference(self._fields, cells)}"
        else:
            return
        raise ValueError(
            f"the file {os.fsdecode(self._file.name)!r} is not a log of these jobs: {why}. It "
            "was not changed. Name a new file, or move this one away"
        )

    def _write(self, rows: list[bytes]) -> None:
        size = self._mend()
        for row in rows if size else [self._header, *rows]:
            size = self._append(row, size)

    def _append(self, row: bytes, size: int) -> int:
        try:
            if self._file.write(row) != len(row):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)
        except BaseException:
            with contextlib.suppress(OSError):  # a device
                self._file.truncate(size)
            raise
        return size + len(row)

    def _mend(self) -> int:
        """Cut off a row that was torn when its writer was killed; return the size."""
        size = os.fstat(self._file.fileno()).st_size
        if size == 0 or self._read(size - len(_END), size) == _END:
            return size
        start = self._read(0, len(self._header))
        if not self._header.startswith(start):  # an editor has changed the line ends: keep all
            if self._read(size - 1, size) != b"\n":
                size = self._append(_END, size)
            return size
        whole = self._end_of_last_row(size) if start == self._header else 0
        self._file.truncate(whole)
        return whole

    def _end_of_last_row(self, size: int) -> int:
        """Return the end of the last complete row; the header is one."""
        end, tail = size, b""
        while True:
            start = max(0, end - (1 << 16))
            tail = self._read(start, end) + tail[: len(_END) - 1]
            if _END in tail:
                return start + tail.rindex(_END) + len(_END)
            end = start

    def _read(self, start: int, end: int) -> bytes:
        data, start = b"", max(0, start)
        while part := os.pread(self._file.fileno(), end - start - len(data), start + len(data)):
            data += part
        return data


_threads_lock = native.RLock()  # `lockf` excludes other processes only, not other threads


class _Locked:
    """Holds the lock of a file to which other threads and programs append as well."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __enter__(self) -> None:
        _threads_lock.acquire()
        try:
            if fcntl is not None:
                fcntl.lockf(self._file, fcntl.LOCK_EX)
        except BaseException:
            _threads_lock.release()
            raise

    def __exit__(self, *_: object) -> None:
        try:
            if fcntl is not None:
                fcntl.lockf(self._file, fcntl.LOCK_UN)
        finally:
            _threads_lock.release()


def after_fork_in_child() -> None:
    """Replace the lock, which another thread of the parent may hold."""
    global _threads_lock
    _threads_lock = native.RLock()


def _is_text(data: bytes) -> bool:
    try:
        return "\0" not in data.decode()
    except UnicodeDecodeError:
        return False


def _difference(fields: Sequence[str], found: list[str]) -> str:
    """Return how a header differs from the expected one, for an error message."""
    if missing := [name for name in fields if name not in found]:
        more = len(missing) - _SHOWN_COLUMNS
        named = ", ".join(missing[:_SHOWN_COLUMNS])
        return f"which lacks {named}" + (f" and {more} more columns" if more > 0 else "")
    return "which has more columns, or another order"


def _row(values: Any, spreadsheet: bool = False) -> bytes:
    text = io.StringIO()
    cells = [_cell(value) for value in values]
    if spreadsheet:
        cells = [
            cell if isinstance(value, (int, float)) else as_text(cell)
            for cell, value in zip(cells, values, strict=True)
        ]
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue().encode("utf-8", "backslashreplace")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    try:
        text = str(value)
    except Exception as error:  # the row is written even if an object's __str__ raises
        text = f"<{type(value).__name__}: {type(error).__name__} in __str__>"
    return cut(text.replace("\r\n", "\n").replace("\r", "\n"))


def cut(text: str) -> str:
    """Return a text as it stands in a cell: its beginning, if it is too long."""
    if len(text) <= CELL_CHARACTERS:
        return text
    left_out = len(text) - CELL_CHARACTERS
    return f"{text[:CELL_CHARACTERS]}... ({left_out} characters left out)"


def as_text(text: str) -> str:
    """Return a text so that a spreadsheet takes it for text, and not for a formula."""
    return f"'{text}" if text.startswith(_FORMULAS) else text


_FORMULAS = ("=", "+", "-", "@", "\t", "\n")
"""Formulas begin with these in some spreadsheet. (Carriage returns were replaced by newlines.)

Source: OWASP, CSV Injection.
"""
