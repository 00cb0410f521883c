"""Observation of jobs: frames of records, plots, progress bars, summaries.

Each optional package is imported by one module here, inside the function that needs it.
"""

from __future__ import annotations

from typing import Any


def jobs_of(jobs: Any) -> Any:
    """Return the jobs of a queue, if one is given in their place: those that it still holds."""
    from ..job_queue import JobQueue

    return jobs._dispatcher.held() if isinstance(jobs, JobQueue) else jobs


def missing_extra(what: str, extra: str, error: ImportError) -> ImportError:
    """Return the error that says which command installs what is missing."""
    return ImportError(
        f"{what} needs {error.name or 'a package'}, which is not installed: "
        f"pip install 'qmill[{extra}]'",
        name=error.name,
    )
