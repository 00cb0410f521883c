"""Workers are like the program is when they are started, whenever a fork server began."""

import faulthandler
import locale
import os
import resource
import signal
import sys
import tempfile
import warnings

import qmill


class OwnWarning(UserWarning):
    pass


class DerivedWarning(OwnWarning):
    pass


def state():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "new")
        os.mkdir(path, 0o777)
        mode = os.stat(path).st_mode & 0o777
    return {
        "recursion": sys.getrecursionlimit(),
        "switch": sys.getswitchinterval(),
        "digits": sys.get_int_max_str_digits(),
        "bytecode": (sys.dont_write_bytecode, sys.pycache_prefix),
        "mode of a new folder": mode,
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "processors": os.sched_getaffinity(0),
        "ignored": [
            number
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)
            if signal.getsignal(number) is signal.SIG_IGN
        ],
        "files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "locale": locale.setlocale(locale.LC_ALL),
        "fault handler": faulthandler.is_enabled(),
        "warned": [warned(*one) for one in WARNINGS],
    }


WARNINGS = [
    ("careful", UserWarning),
    ("careful", DerivedWarning),
    ("careful", RuntimeWarning),
    ("A Text that is let through", UserWarning),
    ("careful", BytesWarning),
]


def warned(text, category):
    """Tell what becomes of a warning."""
    with warnings.catch_warnings(record=True) as seen:
        try:
            warnings.warn(text, category, stacklevel=1)
        except Warning as error:
            return type(error).__name__
    return len(seen)


def state_of_a_worker_of_a_worker():
    return qmill.run(state).result(20)


def change():
    """Change everything, after a fork server began."""
    sys.setrecursionlimit(1777)
    sys.setswitchinterval(0.25)
    sys.set_int_max_str_digits(5555)
    sys.dont_write_bytecode, sys.pycache_prefix = True, "/nowhere"
    os.umask(0o027)
    os.nice(3)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (777, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    locale.setlocale(locale.LC_NUMERIC, "C.UTF-8")
    faulthandler.enable()
    warnings.simplefilter("ignore", RuntimeWarning)
    warnings.simplefilter("error", OwnWarning)
    warnings.filterwarnings("error", category=UserWarning, module="nothing.like.it")
    warnings.filterwarnings("error", category=UserWarning)
    warnings.filterwarnings("ignore", message="a text that", category=UserWarning)


def check(first):
    expected = state()
    differing = {name for name in expected if expected[name] != first[name]}
    assert differing == set(expected), f"not changed: {set(expected) - differing}"
    assert qmill.run(state).result(20) == expected
    assert qmill.run(state_of_a_worker_of_a_worker).result(20) == expected
    with qmill.JobQueue(1) as jobs:
        assert jobs.submit(state).result(20) == expected


def allow_forks():
    """Say nothing of forks beside threads, of which this program has some, since Python 3.12."""
    warnings.filterwarnings("ignore", "This process", DeprecationWarning)


def main():
    allow_forks()
    first = state()
    assert qmill.run(state).result(20) == first
    change()
    check(first)
    # And back, as far as an unprivileged program may come.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    sys.setrecursionlimit(1234)
    faulthandler.disable()
    warnings.resetwarnings()
    allow_forks()
    assert qmill.run(state).result(20) == state()


if __name__ == "__main__":
    qmill.set_start_method(sys.argv[1])
    os.environ["QMILL_START_METHOD"] = sys.argv[1]
    main()
    print("done")
