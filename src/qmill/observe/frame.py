"""Records as a pandas DataFrame: of jobs, of dicts, or of a log file."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..jobs.fields import FIELDS, SCHEMA, Type
from ..jobs.job import Job
from ..jobs.totals import STATES
from . import jobs_of, missing_extra

if TYPE_CHECKING:
    import pandas

    from ..job_queue.queue import JobQueue


def frame(
    jobs: JobQueue | Iterable[Job | Mapping[str, Any]] | str | os.PathLike[str],
) -> pandas.DataFrame:
    """Return a table of jobs, one row for each.

    Args:
        jobs: Jobs, or their records as dicts (`Job.to_dict`); or a `JobQueue`, for the jobs that it
            holds (completed ones until they are fetched); or the path of a CSV file that
            `JobQueue(log_file=...)` has written. A last line that was cut off is left out.

    Returns:
        The columns are the fields of the records, in their order; other keys of dicts follow.
        Moments are datetimes of microseconds; durations (in seconds) and `priority` are floats;
        `lane` and `state` are categories. Names, arguments, outputs and results of callbacks are
        the objects themselves, or their text if they come from a file.

    Raises:
        ImportError: pandas is not installed: `pip install 'qmill[plot]'`.
        TypeError: `jobs` is none of these.
        ValueError: The file is not a log of jobs.
        OSError: The file cannot be read.
    """
    pandas = _import_pandas()
    jobs = jobs_of(jobs)
    if isinstance(jobs, (str, os.PathLike)):
        table = _read_log(jobs)
    elif isinstance(jobs, pandas.DataFrame):
        table = jobs.copy()
    else:
        table = pandas.DataFrame(_records_of(jobs), dtype=object)
    columns = [*FIELDS, *(name for name in table.columns if name not in FIELDS)]
    table = table.reindex(columns=columns)
    for name, type, *_ in SCHEMA:
        try:
            table[name] = _converted(type, table[name])
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"the column {name!r} has values that records do not have: {error}"
            ) from None
    return table


def _import_pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise missing_extra("a frame or plot of jobs", "plot", error) from None
    return pandas


def _records_of(jobs: Any) -> list[Mapping[str, Any]]:
    hint = "jobs must be an iterable of Jobs or of their dicts, a JobQueue or the path of a log"
    if isinstance(jobs, (Job, Mapping)) or not isinstance(jobs, Iterable):
        raise TypeError(f"{hint}; got {type(jobs).__name__} {jobs!r}")
    records: list[Mapping[str, Any]] = []
    for job in jobs:
        if isinstance(job, Job):
            records.append(job.to_dict())
        elif isinstance(job, Mapping):
            records.append(job)
        else:
            raise TypeError(f"{hint}; among them is {type(job).__name__} {job!r}")
    return records


def _read_log(path: str | os.PathLike[str]) -> pandas.DataFrame:
    pandas = _import_pandas()
    with open(path, "rb") as file:
        data = file.read()
    end = b"\r\n" if b"\r\n" in data else b"\n"
    data = data[: data.rfind(end) + len(end)] if end in data else b""
    if not data:
        return pandas.DataFrame(columns=list(FIELDS), dtype=object)
    table = pandas.read_csv(
        io.BytesIO(data), dtype=object, keep_default_na=False, na_values=[""], index_col=False
    )
    missing = {"qid", "id", "submitted"}.difference(table.columns)
    if missing:
        raise ValueError(
            f"{os.fspath(path)} is not a log file of jobs: it has no column {', '.join(missing)}"
        )
    return table


def _converted(type: Type, column: pandas.Series) -> pandas.Series:
    """Return a column with the type of its field, whatever types its values have."""
    pandas = _import_pandas()
    match type:
        case Type.MOMENT:
            is_text = any(isinstance(value, str) for value in column)
            moments = pandas.to_datetime(column, format="ISO8601" if is_text else None)
            return moments.astype("datetime64[us]")
        case Type.NUMBER:
            return column.astype("float64")
        case Type.INTEGER:
            return pandas.to_numeric(column).astype("Int64")
        case Type.ID:
            return pandas.to_numeric(column).astype("int64")
        case Type.FLAG:
            return column.map(_as_bool).astype("boolean" if column.isna().any() else "bool")
        case Type.STATE:
            return column.astype(pandas.CategoricalDtype(STATES))
        case Type.CATEGORY:
            return column.astype(object).astype("category")
    column = column.astype(object).where(column.notna(), None)
    return column.astype("string") if type is Type.TEXT else column


def _as_bool(value: Any) -> Any:
    return value == "True" if isinstance(value, str) else value
