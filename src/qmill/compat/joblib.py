"""joblib on qmill: `register()`, then `joblib.parallel_config(backend="qmill")`.

>>> import qmill.compat.joblib  # doctest: +SKIP
>>> qmill.compat.joblib.register()  # doctest: +SKIP
>>> with joblib.parallel_config(backend="qmill", n_jobs=-1):  # doctest: +SKIP
...     search.fit(X, y)

This module does not import joblib until `register` is called.
"""

from __future__ import annotations

from typing import Any

__all__ = ["register", "shutdown"]

NAME = "qmill"
"""The name of the backend in joblib."""

OLDEST = (1, 4)
"""The oldest supported version of joblib, with `return_as="generator_unordered"`."""


def register(make_default: bool = False) -> None:
    """Register the backend "qmill" with joblib; a second call changes nothing.

    `joblib.parallel_config` accepts some arguments for every backend (`n_jobs`, `max_nbytes`,
    `mmap_mode`, `temp_folder`, `inner_max_num_threads`, ...). With this backend it also accepts
    `start_method`, `initializer`, `initargs`, `max_jobs_per_worker` and `max_memory_per_worker`,
    as `JobQueue` does, and `idle_worker_timeout`: idle workers end after so many seconds (300).

    Args:
        make_default: Whether joblib uses this backend when no other one is named.

    Raises:
        ImportError: joblib is not installed or too old: `pip install 'qmill[joblib]'`.

    Crash: if a worker dies, the call of `Parallel` whose task it was running raises a `WorkerDied`
    that is also joblib's `TerminatedWorkerError`. Tasks of other calls go on.
    """
    parallel = _load()
    from ._joblib_backend import QmillBackend

    parallel.register_parallel_backend(NAME, QmillBackend, make_default=make_default)


def shutdown() -> None:
    """Shut down the workers that are kept for the next call of `Parallel`, and wait for their end.

    A running call keeps its workers until it is done. The next call starts new workers.
    """
    from ._joblib_pool import end_kept

    end_kept()


def _load() -> Any:
    """Return joblib's module of backends."""
    try:
        import joblib
        from joblib import parallel
    except ImportError as error:
        raise ImportError(
            f"the backend {NAME!r} needs joblib: pip install 'qmill[joblib]'", name="joblib"
        ) from error
    found = tuple(int(part) for part in joblib.__version__.split(".")[:2] if part.isdigit())
    if found < OLDEST:
        raise ImportError(
            f"the backend {NAME!r} needs joblib {'.'.join(map(str, OLDEST))} or newer, but this is "
            f"{joblib.__version__}: pip install -U joblib",
            name="joblib",
        )
    return parallel
