"""Whatever the originals export is there, with the same parameters, in order, and defaults."""

from __future__ import annotations

import inspect
import threading
from multiprocessing import Process
from operator import attrgetter
from types import ModuleType
from typing import Any

import pytest

import qmill
from qmill.compat import ezpq, ezpq01, ezq, ezq2

# What `inspect.signature` says of the originals, without annotations and `self`.

_MESSAGES = {
    "Q.__iter__": "()",
    "Q.items": "(cache=False, sort=False)",
    "Q.end": "()",
    "Q.stop": "(workers)",
    # Of the queue that is wrapped: multiprocessing's, or queue.Queue.
    "Q.get": "(block=True, timeout=None)",
    "Q.get_nowait": "()",
    "Q.put_nowait": "(obj)",
    "Q.qsize": "()",
    "Q.empty": "()",
    "Q.full": "()",
    "Q.close": "()",
    "Q.join_thread": "()",
    "Q.cancel_join_thread": "()",
    "Q.task_done": "()",
    "Q.join": "()",
}

EZQ_3_0_4 = _MESSAGES | {
    "Msg": "(data=None, kind='', order=0)",
    "Q": "(kind='process')",
    "Q.put": "(data=None, *, kind='', order=0)",
    "Q.sorted": "(start=0)",
    "Worker": "(context)",
    "Worker.process": "(task, *args, **kwargs)",
    "Worker.thread": "(task, *args, **kwargs)",
    "run": "(task, *args, **kwargs)",
    "run_thread": "(task, *args, **kwargs)",
    "map": "(task, *args, num=None, kind='process')",
}

_EZQ_2 = {
    "Msg": "(kind='', data=None, order=0)",
    "Queue": "(maxsize=0)",
    "Queue.put": "(obj, block=True, timeout=None)",
    "Queue.get": "(block=True, timeout=None)",
    "run": "(func, *args, **kwargs)",
    "put_msg": "(q, kind='', data=None, order=0)",
    "iter_msg": "(q, block=True, timeout=0.05)",
    "iter_q": "(q)",
    "sortiter": f"(items, start=0, key={attrgetter('order')!r})",
    "endq": "(q)",
}

EZQ_2_0_2 = _EZQ_2 | {
    "Process": str(inspect.signature(Process)),
    "endq_and_wait": "(q, procs)",
}

EZQ_2_0_3 = (
    _EZQ_2
    | _MESSAGES
    | {
        "Q": "(thread=False, *args, **kwargs)",
        "Q.put": "(data=None, kind='', order=0)",
        "Q.sorted": "()",
        "run_thread": "(func, *args, **kwargs)",
        "map": "(func, *args, num=None, thread=False)",
        "endq_and_wait": "(q, workers)",
    }
)

_EZPQ = {
    "Queue.__call__": "(fun, *args, **kwargs)",
    "Queue.__enter__": "()",
    "Queue.__exit__": "(*args)",
    "Queue._stop": "()",
    "Queue.collect": "(n=0)",
    "Queue.dispose": "()",
    "Queue.is_busy": "()",
    "Queue.is_empty": "()",
    "Queue.is_full": "()",
    "Queue.is_working": "()",
    "Queue.log_csv": "(job, path='ezpq_log.csv', append=True)",
    "Queue.n_completed": "()",
    "Queue.n_submitted": "()",
    "Queue.n_workers": "()",
    "Queue.n_workers_free": "()",
    "Queue.remaining_jobs": "()",
    "Queue.set_workers": "(n)",
    "Queue.size": "(waiting=False, working=False, completed=False)",
    "Queue.start": "()",
    "Queue.submit": "(job)",
    "Job.get_end_time": "()",
    "Job.get_exitcode": "()",
    "Job.get_processed_time": "()",
    "Job.get_start_time": "()",
    "Job.get_submit_time": "()",
    "Job.is_expired": "()",
    "Job.is_processed": "()",
    "Job.is_running": "()",
    "Job.run_time": "()",
    "Job.to_dict": "()",
    "Job.total_time": "()",
    "Job.waiting_time": "()",
}

EZPQ_0_1_0 = _EZPQ | {
    "Job": "(function, args=None, kwargs=None, name=None, priority=100, timeout=0)",
    "Plot": "(jobs, color_by='priority', show_legend=True, bar_width=1, title=None)",
    "Plot.build": "()",
    "Queue": (
        f"(job_runner={Process!r}, n_workers={qmill.NUM_CPUS}, max_size=0, auto_remove=False, "
        "auto_start=True, auto_stop=False, callback=None, log_file=None, poll=0.1)"
    ),
    "Queue.clear": "()",
    "Queue.get": "(poll=0, timeout=0)",
    "Queue.has_completed": "()",
    "Queue.has_waiting": "()",
    "Queue.has_work": "()",
    "Queue.is_started": "()",
    "Queue.put": "(function, args=None, kwargs=None, name=None, priority=100, timeout=0)",
    "Queue.stop_all": "(wait=False)",
    "Queue.wait": "(n=0, poll=0.1, timeout=0)",
    "Queue.wait_worker": "(poll=0.1, timeout=0)",
}

_MAP = "(function, iterable, args=None, kwargs=None, timeout=0, show_progress=False)"

EZPQ_0_2_2 = _EZPQ | {
    "Job": (
        "(function, args=None, kwargs=None, name=None, priority=100, lane=None, timeout=0, "
        "suppress_errors=False, stop_on_lane_error=False)"
    ),
    "Plot": "(jobs)",
    "Plot.build": (
        "(color_by='qid', facet_by='qid', facet_scale='fixed', show_legend=True, bar_width=1, "
        "title=None, color_pal=None, theme='bw')"
    ),
    "Queue": (
        f"(n_workers={qmill.NUM_CPUS}, max_size=0, job_runner={Process!r}, auto_remove=False, "
        "auto_start=True, auto_stop=False, callback=None, log_file=None, poll=0.1, "
        "show_progress=False, qid=None)"
    ),
    "Queue.clear_waiting": "()",
    "Queue.get": "(wait=False, poll=0, timeout=0)",
    "Queue.map": _MAP,
    "Queue.put": "(*args, **kwargs)",
    "Queue.starmap": _MAP,
    "Queue.starmapkw": _MAP,
    "Queue.stop_all": "(wait=True)",
    "Queue.wait": "(poll=0, timeout=0, show_progress=False)",
    "Queue.wait_worker": "(poll=0, timeout=0)",
    "Queue.waitpb": "(poll=0, timeout=0)",
}

TABLES: list[tuple[ModuleType, dict[str, str]]] = [
    (ezq, EZQ_3_0_4),
    (ezq2, EZQ_2_0_2),
    (ezq2, EZQ_2_0_3),
    (ezpq01, EZPQ_0_1_0),
    (ezpq, EZPQ_0_2_2),
]
ROWS = [(module, name, table[name]) for module, table in TABLES for name in table]

BOTH_VERSIONS = "(q, workers=None, *, procs=None)"
"""Ours where the two versions that one module stands in for call a parameter differently."""


def shape_of(function: Any) -> str:
    """Return a signature as text, without annotations, `self`, and what is not for users."""
    signature = inspect.signature(function)
    shown = [
        parameter.replace(annotation=parameter.empty)
        for name, parameter in signature.parameters.items()
        if name != "self" and not name.startswith("_")
    ]
    return str(inspect.Signature(shown))


@pytest.mark.parametrize(
    ("module", "name", "theirs"), ROWS, ids=[f"{m.__name__[13:]}.{n}" for m, n, _ in ROWS]
)
def test_parameters_are_those_of_the_original(module: ModuleType, name: str, theirs: str) -> None:
    ours = shape_of(attrgetter(name)(module))
    assert ours == (BOTH_VERSIONS if name == "endq_and_wait" else theirs)


def test_endq_and_wait_takes_the_names_of_both_versions() -> None:
    signature = inspect.signature(ezq2.endq_and_wait)
    for arguments in ({"workers": []}, {"procs": []}):
        assert signature.bind(q=None, **arguments)
    assert signature.bind(None, [])


NAMES = {
    ezq: (
        "__version__ Task Context ContextName Msg END_MSG MsgQ NUM_CPUS NUM_THREADS IS_MACOS "
        "Worker Q run run_thread map"
    ),
    ezq2: (
        "__author__ __copyright__ __email__ __license__ __pubdate__ __url__ __version__ Process "
        "Queue Msg Q NUM_CPUS NUM_THREADS END_MSG run run_thread map put_msg iter_msg iter_q "
        "sortiter endq endq_and_wait"
    ),
}


@pytest.mark.parametrize("module", NAMES)
def test_a_star_import_brings_the_names_of_the_original(module: ModuleType) -> None:
    assert set(module.__all__) == set(NAMES[module].split())
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


@pytest.mark.parametrize(
    ("module", "version"), [(ezq, "3.0.4"), (ezq2, "2.0.3"), (ezpq, "0.2.2"), (ezpq01, "0.1.0")]
)
def test_each_tells_the_version_that_it_stands_in_for(module: ModuleType, version: str) -> None:
    assert module.__version__ == version


def test_constants_have_the_values_of_the_original() -> None:
    assert repr(ezq.END_MSG) == "Msg(data=None, kind='END', order=0)"
    assert repr(ezq2.END_MSG) == "Msg(kind='END', data=None, order=0)"
    assert min(32, ezq.NUM_CPUS + 4) == ezq.NUM_THREADS
    assert set(ezq.Context.__args__) == {Process, threading.Thread}
    assert ezq.ContextName.__args__ == ("process", "thread")
