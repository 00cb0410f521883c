"""`qmill.compat.ezq` and `ezq2`: what programs written for ezq do with it."""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
from multiprocessing.connection import wait as wait_for_sentinels
from types import ModuleType
from typing import Any

import pytest
from conformance_support import output_of

import qmill
from qmill.compat import ezq, ezq2
from tests.limits import _no_test_hangs  # noqa: F401

both = pytest.mark.parametrize("module", [ezq, ezq2], ids=["ezq", "ezq2"])
kinds = pytest.mark.parametrize("kind", ["process", "thread"])


def start(module: ModuleType, kind: str, task: Any, *args: Any, **kwargs: Any) -> Any:
    return (module.run if kind == "process" else module.run_thread)(task, *args, **kwargs)


def queue_of(module: ModuleType, kind: str) -> Any:
    return ezq.Q(kind) if module is ezq else ezq2.Q(kind == "thread")


def add_up(q: Any, out: Any, extra: int = 0) -> None:
    out.put(sum(msg.data for msg in q) + extra)


def fail(error: Exception) -> None:
    raise error


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What threads that fail tell, in place of a traceback on stderr."""
    told: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: told.append(args.exc_value))
    return told


# -- workers ---------------------------------------------------------------------------------------


@both
@kinds
def test_workers_read_until_they_are_stopped(module: ModuleType, kind: str) -> None:
    q, out = queue_of(module, kind), queue_of(module, kind)
    workers = [start(module, kind, add_up, q, out, extra=1000) for _ in range(3)]
    for number in range(100):
        assert q.put(number) is q
    assert q.stop(workers) is q
    assert sum(msg.data for msg in out.items()) == 4950 + 3000


@both
@kinds
def test_one_worker_need_not_be_in_a_list(module: ModuleType, kind: str) -> None:
    q, out = queue_of(module, kind), queue_of(module, kind)
    worker = start(module, kind, add_up, q, out)
    q.put(5).stop(worker)
    assert [msg.data for msg in out.items()] == [5]


@both
def test_a_process_has_what_a_process_of_multiprocessing_has(module: ModuleType) -> None:
    q = module.Q()
    worker = module.run(add_up, q, module.Q())
    assert worker.is_alive()
    assert worker.pid == worker.ident != os.getpid()
    assert worker.exitcode is None
    assert worker.daemon is True
    assert worker.name.startswith("Process-")
    assert wait_for_sentinels([worker.sentinel], 0) == []
    q.end()
    worker.join()
    assert (worker.is_alive(), worker.exitcode) == (False, 0)
    assert wait_for_sentinels([worker.sentinel], 0) == [worker.sentinel]


@both
def test_a_thread_has_what_a_thread_has(module: ModuleType) -> None:
    q = queue_of(module, "thread")
    worker = module.run_thread(add_up, q, queue_of(module, "thread"))
    assert worker.is_alive()
    assert worker.daemon is False
    assert worker.ident
    assert worker.native_id
    assert not hasattr(worker, "exitcode")
    q.stop(worker)
    assert not worker.is_alive()


def test_run_of_ezq2_returns_a_process_and_a_thread() -> None:
    gate = ezq2.Queue()
    process = ezq2.run(gate.get)  # runs until a message comes
    assert isinstance(process, multiprocessing.Process)
    assert isinstance(process, ezq2.Process)
    assert process in multiprocessing.active_children()
    gate.put("go")
    process.join()
    assert process not in multiprocessing.active_children()
    process.close()
    thread = ezq2.run_thread(abs, -1)
    assert isinstance(thread, threading.Thread)
    thread.join()


@both
def test_a_process_knows_its_name(module: ModuleType) -> None:
    q = module.Q()
    worker = module.run(lambda: q.put(multiprocessing.current_process().name))
    worker.join()
    assert q.get().data == worker.name


@both
def test_a_worker_may_start_workers(module: ModuleType) -> None:
    q = module.Q()

    def outer() -> None:
        module.Q().stop([module.run(lambda: q.put("from within"))])

    module.run(outer).join()
    assert q.get().data == "from within"


@both
@pytest.mark.parametrize("how", ["terminate", "kill"])
def test_a_process_that_the_program_ends_is_no_failure(module: ModuleType, how: str) -> None:
    q, out = module.Q(), module.Q()
    workers = [module.run(add_up, q, out) for _ in range(2)]
    getattr(workers[0], how)()
    workers[0].join()
    assert workers[0].exitcode == {"terminate": -15, "kill": -9}[how]
    q.put(1).stop(workers)
    assert [msg.data for msg in out.items()] == [1]


@both
@kinds
def test_stop_raises_what_a_worker_raised(module: ModuleType, kind: str, told: list[Any]) -> None:
    worker = start(module, kind, fail, KeyError("what went wrong"))
    with pytest.raises(KeyError, match="what went wrong"):
        queue_of(module, kind).stop(worker)
    assert len(told) == (kind == "thread")  # as ezq, which tells of each at once


@both
def test_stop_tells_of_a_process_that_died(module: ModuleType) -> None:
    worker = module.run(os._exit, 3)
    with pytest.raises(qmill.WorkerDied, match="3"):
        module.Q().stop([worker])
    assert worker.exitcode == 3


def test_endq_and_wait_raises_it_as_well() -> None:
    q = ezq2.Queue()
    workers = [ezq2.run(fail, ValueError("no"))]
    with pytest.raises(ValueError, match="no"), pytest.deprecated_call():
        ezq2.endq_and_wait(q, workers)


@both
def test_processes_are_forks_that_share_what_cannot_be_pickled(module: ModuleType) -> None:
    q, lock = module.Q(), multiprocessing.get_context("fork").Lock()
    values = {"now": 1}

    def work(generator: Any) -> None:
        with lock:
            q.put((next(generator), values["now"]))

    values["now"] = 2
    module.run(work, iter([10])).join()
    assert q.get().data == (10, 2)


def test_a_worker_can_be_made_of_a_process_or_a_thread() -> None:
    context = multiprocessing.get_context("fork")
    q, out = ezq.Q(), ezq.Q()
    workers = [
        ezq.Worker(context.Process(target=add_up, args=(q, out), daemon=True)),
        ezq.Worker(threading.Thread(target=add_up, args=(q, out))),
    ]
    assert all(worker.is_alive() for worker in workers)
    q.put(1).put(2).stop(workers)
    assert sum(msg.data for msg in out.items()) == 3
    assert workers[0].exitcode == 0


@both
def test_stop_takes_what_others_have_started(module: ModuleType) -> None:
    context = multiprocessing.get_context("fork")
    q, out = module.Q(), module.Q()
    workers: list[Any] = [
        context.Process(target=add_up, args=(q, out)),
        threading.Thread(target=add_up, args=(q, out)),
    ]
    for worker in workers:
        worker.start()
    q.put(1).put(2).stop(workers)
    assert sum(msg.data for msg in out.items()) == 3
    ended = context.Process(target=os._exit, args=(4,))
    ended.start()
    with pytest.raises(qmill.WorkerDied):
        q.stop([ended])


@both
@pytest.mark.parametrize("wrong", [5, multiprocessing.Process(), threading.Thread()])
def test_stop_refuses_what_is_no_running_worker(module: ModuleType, wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"must be processes|has not been started"):
        module.Q().stop([wrong])


# -- map -------------------------------------------------------------------------------------------


def mapped(module: ModuleType, kind: str, *args: Any, **options: Any) -> Any:
    chosen = {"kind": kind} if module is ezq else {"thread": kind == "thread"}
    return module.map(*args, **chosen, **options)


@both
@kinds
def test_map_zips_its_arguments(module: ModuleType, kind: str) -> None:
    factor = 3
    results = mapped(module, kind, lambda a, b: factor * a * b, range(5), range(9), num=2)
    assert list(results) == [0, 3, 12, 27, 48]
    assert list(mapped(module, kind, pow)) == []


@both
def test_map_returns_results_that_fill_no_pipe(module: ModuleType) -> None:
    sizes = [len(result) for result in module.map(bytes, [200_000] * 8, num=2)]
    assert sizes == [200_000] * 8


@both
@kinds
def test_map_raises_what_a_call_raised(module: ModuleType, kind: str) -> None:
    results = mapped(module, kind, lambda x: 1 // x, [1, 0, 1], num=1)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        list(results)


def test_map_refuses_an_unknown_kind() -> None:
    with pytest.raises(ValueError, match="'fiber'"):
        ezq.map(abs, [1], kind="fiber")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'fiber'"):
        ezq.Q("fiber")  # type: ignore[arg-type]


# -- queues ----------------------------------------------------------------------------------------


@both
@kinds
def test_a_message_is_put_as_it_is(module: ModuleType, kind: str) -> None:
    q = queue_of(module, kind)
    message = module.Msg(kind="EVEN", data=2, order=7)
    q.put(message).put(3, kind="ODD", order=8)
    assert q.qsize() == 2
    assert not q.empty()
    assert q.get() == message
    assert q.get_nowait() == module.Msg(kind="ODD", data=3, order=8)
    with pytest.raises(queue.Empty):
        q.get(timeout=0)
    q.put(module.END_MSG).put(kind="END").end()
    assert [list(q), list(q), q.get()] == [[], [], module.END_MSG]


@both
@kinds
def test_the_wrapped_queue_carries_any_object(module: ModuleType, kind: str) -> None:
    q = queue_of(module, kind)
    q.put_nowait((1, "", 0))
    q.put_nowait(None)
    assert [q.get(), q.get()] == [(1, "", 0), None]
    q.close()
    with pytest.raises(ValueError, match="closed"):
        q.put(1)


@both
def test_items_can_be_sorted_and_cached(module: ModuleType) -> None:
    q = module.Q()
    for order in (2, 0, 1, 9):
        q.put(order * 10, order=order)
    assert [msg.data for msg in q.items(sort=True)] == [0, 10, 20, 90]
    q.put(1).put(2)
    assert [msg.data for msg in q.items(cache=True)] == [1, 2]
    assert [msg.data for msg in q.items(cache=True)] == [1, 2]


def test_sorted_of_ezq_takes_a_start() -> None:
    q = ezq.Q("thread")
    for order in (6, 5, 7):
        q.put(order=order)
    assert [msg.order for msg in q.end().sorted(5)] == [5, 6, 7]


@kinds
def test_a_bounded_queue_of_ezq2_is_full_at_once(kind: str) -> None:
    q = ezq2.Q(kind == "thread", 1)
    q.put("data", "KIND", 3)
    with pytest.raises(queue.Full):
        q.put("more")
    assert q.full()
    assert q.get() == ezq2.Msg("KIND", "data", 3)
    assert ezq2.Q(maxsize=2).maxsize == 2


def test_the_queue_below_q_of_ezq2_makes_no_messages() -> None:
    q = ezq2.Q(thread=True)
    lock = threading.Lock()
    q.q.put(lock)
    assert q.get() is lock
    q.q.put(ezq2.END_MSG)
    assert list(q) == []


# -- the function API of ezq 2 ---------------------------------------------------------------------


@pytest.fixture(params=["Queue", "Q", "multiprocessing.Queue", "queue.Queue"])
def any_queue(request: pytest.FixtureRequest) -> Any:
    made = {
        "Queue": ezq2.Queue,
        "Q": ezq2.Q,
        "multiprocessing.Queue": multiprocessing.get_context("fork").Queue,
        "queue.Queue": queue.Queue,
    }[request.param]()
    yield made
    if request.param == "multiprocessing.Queue":
        made.close()
        made.join_thread()


@pytest.mark.filterwarnings("ignore:Use .* instead:DeprecationWarning")
def test_functions_take_every_queue(any_queue: Any) -> None:
    q = any_queue
    assert ezq2.put_msg(q, "EVEN", 2, 1) is q
    assert ezq2.put_msg(q, data=1) is q
    assert ezq2.endq(q) is q
    assert list(ezq2.iter_msg(q)) == [ezq2.Msg("EVEN", 2, 1), ezq2.Msg("", 1, 0)]
    ezq2.put_msg(q, order=1)
    ezq2.put_msg(q, order=0)
    assert [msg.order for msg in ezq2.sortiter(ezq2.iter_q(q))] == [0, 1]


@pytest.mark.filterwarnings("ignore:Use .* instead:DeprecationWarning")
@pytest.mark.parametrize("in_list", [True, False])
def test_endq_and_wait_returns_the_list(any_queue: Any, in_list: bool) -> None:
    out: queue.Queue[int] = queue.Queue()
    thread = ezq2.run_thread(lambda: out.put(sum(msg.data for msg in ezq2.iter_msg(any_queue))))
    ezq2.put_msg(any_queue, data=4)
    assert ezq2.endq_and_wait(any_queue, [thread] if in_list else thread) == [thread]
    assert out.get(timeout=0) == 4


@pytest.mark.filterwarnings("ignore:Use .* instead:DeprecationWarning")
def test_sortiter_yields_as_soon_as_it_can() -> None:
    read = []

    def items() -> Any:
        for number in (3, 2, 5, 2, 4, 9, 7):
            read.append(number)
            yield number

    yielded = [(number, len(read)) for number in ezq2.sortiter(items(), 2, key=lambda x: x)]
    assert yielded == [(2, 2), (3, 2), (2, 4), (4, 5), (5, 5), (7, 7), (9, 7)]


DEPRECATED: dict[str, Any] = {
    "put_msg": lambda: ezq2.put_msg(queue.Queue()),
    "iter_msg": lambda: ezq2.iter_msg(queue.Queue()),
    "iter_q": lambda: ezq2.iter_q(queue.Queue()),
    "sortiter": lambda: ezq2.sortiter([]),
    "endq": lambda: ezq2.endq(queue.Queue()),
    "endq_and_wait": lambda: ezq2.endq_and_wait(queue.Queue(), []),
}


@pytest.mark.parametrize("name", DEPRECATED)
def test_what_the_original_deprecates_warns_where_it_is_called(name: str) -> None:
    with pytest.warns(DeprecationWarning, match=r"Use .*Q.* instead\.") as warned:
        DEPRECATED[name]()
    assert warned[0].filename == __file__


# -- programs --------------------------------------------------------------------------------------

PROGRAM = """
import sys, qmill.compat.{module}
sys.modules["ezq"] = qmill.compat.{module}

import ezq
from ezq import Q, Msg

FACTOR = 1

def work(q, out):
    for msg in q:
        out.put(Msg(data=FACTOR * msg.data))

FACTOR = 7
q, out = Q(), Q()
workers = [ezq.run(work, q, out) for _ in range(2)]
for number in range(10):
    q.put(number)
q.stop(workers)
print(sum(msg.data for msg in out.items()))
print(list(ezq.map(lambda x: x * FACTOR, range(3))))
"""


@pytest.mark.parametrize("module", ["ezq", "ezq2"])
@pytest.mark.parametrize("how", ["file", "-c", "-"])
def test_a_program_runs_unchanged_under_the_old_name(module: str, how: str, tmp_path: Any) -> None:
    printed = output_of(PROGRAM.format(module=module), how, tmp_path)
    assert printed == ("315\n[0, 7, 14]\n", "")
