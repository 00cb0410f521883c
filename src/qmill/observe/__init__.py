"""Observation of jobs: frames of records, plots, progress bars, summaries.

Each optional package is imported by one module here, inside the function that needs it.
"""

from __future__ import annotations

from typing import Any


def jobs_of(jobs: Any) -> Any:
    """Return the jobs that a queue still holds, if `jobs` is a queue; else `jobs`."""
    held = getattr(type(jobs), "_held", None)  # a JobQueue, of a package above this one
    return jobs if held is None else held(jobs)


def missing_extra(what: str, extra: str, error: ImportError) -> ImportError:
    """Return the error for a missing package, with the command that installs it."""
    return ImportError(
        f"{what} needs {error.name or 'a package'}, which is not installed: "
        f"pip install 'qmill[{extra}]'",
        name=error.name,
    )
