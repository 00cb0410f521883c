import concurrent.futures
import json
import multiprocessing
import os
import signal
import sys

from .declare import KINDS, is_right

TIMEOUT_S = 30


def make_executor(column):
    if column == "qmill":
        import qmill

        return qmill.JobQueue(1)
    if column == "loky":
        from loky import ProcessPoolExecutor

        return ProcessPoolExecutor(1)
    context = multiprocessing.get_context(column)
    return concurrent.futures.ProcessPoolExecutor(1, mp_context=context)


def attempt(executor, job, argument, expected):
    """Return what is wrong with a kind, as (type, text), or nothing."""
    try:
        result = executor.submit(job, argument).result(timeout=TIMEOUT_S)
    except BaseException as error:
        if type(error).__module__ != __name__:  # not the job's own
            return type(error).__name__, str(error)
        result = error
    try:
        return None if is_right(result, expected) else ("wrong result", repr(result))
    except BaseException as error:
        return "wrong result", f"{result!r}: {type(error).__name__}: {error}"


def discard(executor):
    """Have a broken pool end, or one whose worker hangs."""
    for pid in list(executor._processes or ()):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    executor.shutdown(wait=False)


def main():
    column, *names = sys.argv[1:]
    executor = make_executor(column)
    for name in names or KINDS:
        job, argument, expected, refused = KINDS[name]
        wrong = attempt(executor, job, argument, expected)
        print(json.dumps([name, wrong, refused]), flush=True)
        if column != "qmill" and wrong and wrong[0] != "wrong result":
            discard(executor)
            executor = make_executor(column)
    executor.shutdown()
