"""CPython's tests of executors, of `wait` and of `as_completed`, with `JobQueue` as the executor.

A group is "thread", or a start method for worker processes.
"""

from __future__ import annotations

import importlib
import os

from cpython_tests import bind, has

import qmill

PRIVATE = "looks at private attributes of the executor"
SLOW = "takes seconds: of the resource `walltime`, which CPython, too, leaves out unless asked"
NEVER_BROKEN = "no failure breaks a JobQueue: it is that of the job, and told as such"
NONE_BEGUN = "jobs begin in a thread of their own: none may have begun that is not cancelled"

LEFT_OUT = {
    # What only the executors of the standard library have.
    "test_default_workers": PRIVATE,
    "test_del_shutdown": PRIVATE,
    "test_idle_process_reuse_multiple": PRIVATE,
    "test_idle_process_reuse_one": PRIVATE,
    "test_idle_thread_reuse": PRIVATE,
    "test_killed_child": PRIVATE,
    "test_max_tasks_per_child": PRIVATE,
    "test_max_tasks_per_child_defaults_to_spawn_context": PRIVATE,
    "test_processes_terminate": PRIVATE,
    "test_saturation": PRIVATE,
    "test_shutdown_deadlock_pickle": PRIVATE,
    "test_shutdown_no_wait": PRIVATE,
    "test_threads_terminate": PRIVATE,
    "ProcessPoolShutdownTest.test_context_manager_shutdown": PRIVATE,
    "ThreadPoolShutdownTest.test_context_manager_shutdown": PRIVATE,
    "test_gh105829_should_not_deadlock_if_wakeup_pipe_full": "replaces parts of the executor",
    "test_python_finalization_error": "replaces a function that the executor calls",
    "test_thread_names_assigned": "there is no thread_name_prefix",
    "test_thread_names_default": "is about the names of the executor's threads",
    "test_hang_global_shutdown_lock": "is about the executors of the standard library",
    "ProcessPoolShutdownTest.test_hang_gh83386": "its program lacks an import",
    "test_traceback": "looks for a private class of concurrent.futures as the cause",
    "test_map_timeout": SLOW,
    "test_first_exception": SLOW,
    # What behaves otherwise, and is to.
    "FailingInitializerMixin.test_initializer": NEVER_BROKEN,
    "test_error_at_task_unpickle": NEVER_BROKEN,
    "test_error_during_result_unpickle_in_result_handler": NEVER_BROKEN,
    "test_exit_at_task_unpickle": NEVER_BROKEN,
    "test_exit_during_func_exec_on_worker": "a job that exits has died: WorkerDied, not SystemExit",
    "test_exit_during_result_pickle_on_worker": "is a SerializationError, not SystemExit",
    "test_exit_during_result_unpickle_in_result_handler": NEVER_BROKEN,
    "test_cancel_futures": NONE_BEGUN,
    "test_cancel_futures_wait_false": NONE_BEGUN,
}


class ThreadPoolExecutor(qmill.JobQueue):
    """Tested in its place."""

    def __init__(self, max_workers=None, **options):
        super().__init__(max_workers, engine="thread", **options)


class ProcessPoolExecutor(qmill.JobQueue):
    """Tested in its place; one of its arguments has another name here."""

    def __init__(self, max_workers=None, *, max_tasks_per_child=None, **options):
        super().__init__(max_workers, max_jobs_per_worker=max_tasks_per_child, **options)


COMMON = ["AsCompletedTests", "InitializerMixin", "FailingInitializerMixin"]
WHOLE = ["ThreadPoolExecutorTest", "ThreadPoolWaitTests", "ThreadPoolShutdownTest"]
OF_THREADS = WHOLE + COMMON
OF_PROCESSES = [
    "ProcessPoolExecutorTest",
    "WaitTests",
    "ProcessPoolShutdownTest",
    "ExecutorDeadlockTest",
    *COMMON,
]
# Of each group: the mixin that makes the executor, what that is, and the suites.
GROUPS = {
    "thread": ("ThreadPoolMixin", ThreadPoolExecutor, OF_THREADS),
    "fork": ("ProcessPoolForkMixin", ProcessPoolExecutor, OF_PROCESSES),
    "forkserver": ("ProcessPoolForkserverMixin", ProcessPoolExecutor, OF_PROCESSES),
    "spawn": ("ProcessPoolSpawnMixin", ProcessPoolExecutor, OF_PROCESSES),
}
# One module before 3.12, then a package.
MODULES = [
    "test_concurrent_futures",
    "test_concurrent_futures.util",
    "test_concurrent_futures.test_wait",
    "test_concurrent_futures.test_as_completed",
    "test_concurrent_futures.test_init",
    "test_concurrent_futures.test_shutdown",
    "test_concurrent_futures.test_thread_pool",
    "test_concurrent_futures.test_process_pool",
    "test_concurrent_futures.test_deadlock",
]


def find(name):
    """Find a class of CPython's, wherever it is."""
    for module in filter(has, MODULES):
        if found := getattr(importlib.import_module(f"test.{module}"), name, None):
            return found
    raise AttributeError(f"CPython's tests of executors have no {name}")


def bind_all():
    for group, (mixin, executor, suites) in GROUPS.items():
        for suite in suites:
            bases = [find(suite)]
            if suite not in WHOLE:
                bases += [find(mixin), find("BaseTestCase")]
            name = f"{suite}_{group}"
            bind(globals(), name, bases, LEFT_OUT, executor_type=executor)


if has("test_concurrent_futures"):
    bind_all()


def run(group, outcomes):
    """Run the tests of a group."""
    from test import support

    support.verbose = False
    shutdown = importlib.import_module(find("ExecutorShutdownTest").__module__)
    run_program = shutdown.assert_python_ok

    def run_program_with_qmill(option, program):
        program = program.replace("from concurrent.futures import", f"from {__name__} import")
        return run_program(option, program, PYTHONPATH=os.path.dirname(__file__), __isolated=False)

    shutdown.assert_python_ok = run_program_with_qmill
    deadlock = importlib.import_module(find("ExecutorDeadlockTest").__module__)
    deadlock.BrokenProcessPool = qmill.WorkerDied
    outcomes.run(*(globals()[f"{suite}_{group}"] for suite in GROUPS[group][2]))
