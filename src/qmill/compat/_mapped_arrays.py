"""Passes large arrays to jobs as memory-mapped files, as joblib's `max_nbytes` promises.

    array ── written once ──> nameless file <── /proc/PID/fd/N ── worker: numpy.memmap
      └── a weak reference ───────┘ └──────── the jobs that use it

A file has no name, so nothing of it remains when this process is killed. It is kept as long as its
array or a job for which it was packed lives; a worker's mapping remains valid after that.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import mmap
import os
import sys
import tempfile
import weakref
from typing import TYPE_CHECKING, Any

from ..packing import serialize
from ..system import lifecycle
from ..system.opened import duplicate, owned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from io import FileIO

logger = logging.getLogger("qmill")

MAX_FILES = 256
"""The most arrays of one call that have files at a time; further arrays are pickled."""

_FOLDER_OF_FILES = "/proc/{}/fd"
_live: weakref.WeakSet[_File] = weakref.WeakSet()


class _File:
    """A nameless file with the content of an array."""

    def __init__(self, folder: str | None, content: memoryview) -> None:
        self._file = _open_nameless(folder)
        _live.add(self)
        while len(content):
            content = content[os.write(self._file.fileno(), content) :]

    @property
    def path(self) -> str:
        """The path by which other processes open the file."""
        return f"{_FOLDER_OF_FILES.format(os.getpid())}/{self._file.fileno()}"

    def close(self) -> None:
        """Close the file; mappings of it remain valid."""
        self._file.close()


def _open_nameless(folder: str | None) -> FileIO:
    if folder is None and hasattr(os, "memfd_create"):
        return owned(os.memfd_create, "qmill-array")
    if folder is not None:
        os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        return duplicate(file.fileno())


class MappedArrays:
    """The files of the arrays of one call.

    Args:
        min_bytes: Arrays of more bytes are mapped; None: no array is mapped.
        mode: The mode in which workers map them: "r", "r+" or "c"; "w+" is treated as "r+". None:
            no array is mapped.
        folder: The folder of the files; None is the one named by the environment variable
            JOBLIB_TEMP_FOLDER, or memory.
    """

    def __init__(self, min_bytes: float | None, mode: str | None, folder: str | None) -> None:
        self._min_bytes = min_bytes
        self._mode = "r+" if mode == "w+" else mode
        self._folder = folder or os.environ.get("JOBLIB_TEMP_FOLDER") or None
        self._of_arrays: dict[int, tuple[weakref.ref[Any], _File]] = {}
        self._can_map = os.path.isdir(_FOLDER_OF_FILES.format("self"))

    @contextlib.contextmanager
    def packing(self) -> Iterator[list[Any]]:
        """Map, inside a `with` block, the large arrays of all jobs that this thread packs.

        Yields:
            A list to which the files are added. The caller must keep it as long as the jobs.
        """
        files: list[Any] = []
        if "numpy" not in sys.modules:  # then there are no arrays
            yield files
            return
        import numpy

        destination = serialize.destination
        before = destination.reducers
        reduce = functools.partial(self._reduce, files)
        destination.reducers = {numpy.ndarray: reduce, numpy.memmap: reduce}
        try:
            yield files
        finally:
            destination.reducers = before

    def forget(self) -> None:
        """Forget the files, so that arrays, whose content may have changed, are written again."""
        self._of_arrays.clear()

    def _reduce(self, files: list[Any], array: Any) -> Any:
        if not array.size or array.dtype.hasobject:
            return array.__reduce_ex__(5)
        if (reduced := _reduce_mapped(array)) is not None:
            return reduced
        if self._is_to_be_mapped(array) and (file := self._file_of(array)) is not None:
            files.append(file)
            order = "C" if array.flags.c_contiguous or not array.flags.f_contiguous else "F"
            return map_array, (file.path, array.dtype, self._mode, 0, array.shape, order)
        return array.__reduce_ex__(5)

    def _is_to_be_mapped(self, array: Any) -> bool:
        if self._min_bytes is None or self._mode is None or not self._can_map:
            return False
        return bool(array.nbytes > self._min_bytes)

    def _file_of(self, array: Any) -> _File | None:
        """Return the file of an array, made if necessary; None if it cannot be made."""
        key = id(array)
        known = self._of_arrays.get(key)
        if known is not None and known[0]() is array:
            return known[1]
        if len(self._of_arrays) >= MAX_FILES:
            return None
        try:
            file = _File(self._folder, _content_of(array))
        except OSError as error:
            logger.warning("an array of %d bytes is sent without a file: %s", array.nbytes, error)
            return None
        gone = weakref.ref(array, lambda ref: self._drop(key, ref))
        self._of_arrays[key] = gone, file
        return file

    def _drop(self, key: int, ref: weakref.ref[Any]) -> None:
        known = self._of_arrays.get(key)
        if known is not None and known[0] is ref:
            del self._of_arrays[key]


def _content_of(array: Any) -> memoryview:
    """Return the bytes of an array; in the order of its memory if that is contiguous."""
    import numpy

    if array.flags.f_contiguous and not array.flags.c_contiguous:
        array = array.T
    flat = numpy.ascontiguousarray(array).reshape(-1)
    return memoryview(flat.view(numpy.uint8))


def map_array(
    path: str, dtype: Any, mode: Any, offset: int, shape: tuple[int, ...], order: Any
) -> Any:
    """Map an array that is contiguous in a file."""
    import numpy

    return numpy.memmap(path, dtype, mode, offset, shape, order)


def map_with_gaps(
    path: str,
    dtype: Any,
    mode: Any,
    begin: int,
    num_bytes: int,
    first: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
) -> Any:
    """Map an array that has gaps or is backwards in a file.

    Args:
        path: The file.
        dtype: The array's dtype.
        mode: The mode of the map.
        begin: The offset of the array's lowest byte in the file.
        num_bytes: The length of the part of the file that has the array.
        first: The offset of the array's first item in that part.
        shape: The array's shape.
        strides: The array's strides.
    """
    import numpy

    flat = numpy.memmap(path, numpy.uint8, mode, begin, (num_bytes,))
    return numpy.ndarray(shape, dtype, flat, first, strides)


# -- arrays that are mapped from a file already ------------------------------------------------


def _reduce_mapped(array: Any) -> Any:
    """Reduce an array to its place in the file from which it is mapped; None if there is none."""
    root = _root_of(array)
    if root is None:
        return None
    mode = "r+" if root.mode == "w+" else root.mode
    first = array.__array_interface__["data"][0]
    place = first - root.__array_interface__["data"][0] + root.offset
    path, flags = os.fspath(root.filename), array.flags
    if flags.c_contiguous or flags.f_contiguous:
        order = "C" if flags.c_contiguous else "F"
        return map_array, (path, array.dtype, mode, place, array.shape, order)
    steps = [(n - 1) * step for n, step in zip(array.shape, array.strides, strict=True)]
    before = -sum(step for step in steps if step < 0)
    num_bytes = before + sum(step for step in steps if step > 0) + array.itemsize
    where = place - before, num_bytes, before
    return map_with_gaps, (path, array.dtype, mode, *where, array.shape, array.strides)


def _root_of(array: Any) -> Any:
    """Return the `numpy.memmap` that owns an array's memory, if other processes can map the same.

    Changes in a map of mode "c" are not in the file, so others cannot see them.
    """
    import numpy

    while array is not None and not isinstance(base := getattr(array, "base", None), mmap.mmap):
        array = base
    can_be_mapped = isinstance(array, numpy.memmap) and array.filename is not None
    return array if can_be_mapped and array.mode != "c" else None


# -- in a worker -------------------------------------------------------------------------------


def result_reducers() -> dict[type, Callable[[Any], Any]]:
    """Return the reducers for arrays in the results of a job."""
    import numpy

    return {numpy.ndarray: _reduce_result, numpy.memmap: _reduce_result}


def _reduce_result(array: Any) -> Any:
    """Reduce an array mapped from a named file to its place there, and any other to a plain array.

    A read-only array is copied, since the copy is writable.
    """
    import numpy

    if isinstance(array, numpy.memmap):
        root = _root_of(array)
        if array.size and root is not None and not _is_nameless(os.fspath(root.filename)):
            return _reduce_mapped(array)
        array = numpy.asarray(array)
    return (array if array.flags.writeable else array.copy("K")).__reduce_ex__(5)


def _is_nameless(path: str) -> bool:
    head, _, _ = path.rpartition("/")
    return head.startswith("/proc/") and head.endswith("/fd")


def _close_in_child() -> None:
    """Close the files in a forked child, which would keep the memory of its parent's arrays."""
    for file in list(_live):
        file.close()


lifecycle.at_fork(lifecycle.MAPPED_ARRAYS, in_child=_close_in_child)
