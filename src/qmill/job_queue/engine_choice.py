"""The engine of a job queue: which one its arguments ask for, and how its processes start."""

from __future__ import annotations

from typing import Any

from ..engines.api import ALL, Engine, EngineFactory, Settings
from ..errors import NotSupported
from ..packing.guesses import explain_engine
from ..processes import inherited, launch
from ..system import native
from ..workers import api


def make_engine(
    engine: str | Engine | EngineFactory,
    settings: Settings,
    start_method: str | None,
    mp_context: Any,
) -> Engine:
    """Make the engine of a queue.

    Args:
        engine: As for `JobQueue`; an `Engine` is used as it is.
        settings: The settings of the engine.
        start_method: As for `JobQueue`.
        mp_context: As for `JobQueue`.

    Raises:
        TypeError: `mp_context` is not a context of multiprocessing.
        ValueError: The engine or the start method is unknown.
        NotSupported: The engine does not support an argument, or the platform not the engine.
    """
    if isinstance(engine, Engine):
        return engine
    if isinstance(engine, EngineFactory):
        if start_method is not None or mp_context is not None:
            raise NotSupported(
                f"start_method and mp_context are for engine='process', not for {engine!r}"
            )
        return engine.make(settings)
    if engine == "process":
        launch.check_system("engine='thread'")
        from ..engines.process.engine import ProcessEngine

        if start_method is None and mp_context is not None:
            if not hasattr(mp_context, "get_start_method"):
                raise TypeError(
                    "mp_context must be a context of multiprocessing, not "
                    f"{type(mp_context).__name__} {mp_context!r}; "
                    "a start method's name goes into start_method"
                )
            start_method = mp_context.get_start_method()
        if start_method is None:
            start_method = _method_for(settings)
        return ProcessEngine(settings, launch.get_start_method(start_method))
    if engine != "thread":
        raise ValueError(explain_engine(engine))
    for argument in ("max_jobs_per_worker", "max_memory_per_worker"):
        if getattr(settings, argument) is not None:
            raise NotSupported(
                f"{argument}: engine='thread' cannot replace workers; engine='process' can"
            )
    if start_method is not None or mp_context is not None:
        raise NotSupported("start_method and mp_context are for engine='process'")
    if native.has_greenlets():
        raise NotSupported(
            "engine='thread': gevent.monkey has put greenlets in the place of threads; use "
            "gevent.pool, or gevent.monkey.patch_all(thread=False), or engine='process'"
        )
    from ..engines.thread import ThreadEngine

    return ThreadEngine(settings)


def _method_for(settings: Settings) -> str | None:
    """Return "fork" if no start method was chosen and an argument of the initializer needs it.

    Code that takes any executor cannot pass a start method. For instance, `process_map` of tqdm
    makes its lock in multiprocessing's default context, which is also that of the standard
    library's executor.
    """
    if launch.is_method_chosen():
        return None
    needs_fork = inherited.needs_fork((settings.initializer, settings.initargs))
    return "fork" if needs_fork else None


def default_workers(engine: object) -> int:
    """Return the number of workers of a queue whose user has given none."""
    if isinstance(engine, EngineFactory):
        return ALL
    return api.NUM_THREADS if engine == "thread" else api.NUM_CPUS
