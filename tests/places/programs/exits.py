"""Exit codes and deaths where the kernel tells nobody, or somebody else, how children end."""

import ctypes
import os
import re
import signal
import sys
import threading

import qmill

PR_SET_CHILD_SUBREAPER = 36


def version():
    """Return the kernel's version, as (6, 15)."""
    return tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))


KERNEL_KEEPS_CODES = version() >= (6, 15)


def leave(code):
    sys.exit(code)


def leave_at_once(code):
    os._exit(code)


def fail():
    raise ValueError("as asked")


def be_killed():
    os.kill(os.getpid(), signal.SIGKILL)


def leave_an_orphan():
    if os.fork() == 0:
        if os.fork() == 0:
            os._exit(0)
        os._exit(0)


def ignore():
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)


def reap(*_):
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def handle():
    signal.signal(signal.SIGCHLD, reap)


def reap_in_a_thread():
    """Reap at once, as a supervisor's thread does: the signal tells it by a pipe."""
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell)
    signal.signal(signal.SIGCHLD, lambda *_: None)

    def reap_for_ever():
        while os.read(told, 1):
            reap()

    threading.Thread(target=reap_for_ever, daemon=True).start()


def adopt_orphans():
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def own_namespace():
    assert os.getpid() == 1


def check(worker, *codes):
    worker.join(20)
    assert worker.exitcode in codes, (worker.exitcode, codes)
    return worker.exception(20)


def check_death(death, is_known, **facts):
    """A death is told as it was, or it is told that nobody knows."""
    assert isinstance(death, qmill.WorkerDied), death
    told = {name: getattr(death, name) for name in facts}
    if told != facts:
        assert not is_known, (told, facts)
        assert (death.exitcode, death.signal) == (None, None)
        assert "with an unknown exit code: another part" in str(death)


def main(is_known):
    assert check(qmill.run(abs, -1), 0) is None
    assert qmill.run(abs, -1).result(20) == 1
    check(qmill.run(leave, 3), 3)
    assert isinstance(check(qmill.run(fail), 1), ValueError)
    assert check(qmill.run(leave_an_orphan), 0) is None
    unknown = () if is_known else (255,)
    check_death(check(qmill.run(leave_at_once, 4), 4, *unknown), is_known, exitcode=4)
    check_death(check(qmill.run(be_killed), -9, *unknown), is_known, signal=9)

    with qmill.JobQueue(1, max_jobs_per_worker=2) as jobs:
        for number in range(5):
            assert jobs.submit(abs, -number).result(20) == number
        check_death(jobs.submit(be_killed).exception(20), is_known, signal=9)
        check_death(jobs.submit(leave_at_once, 5).exception(20), is_known, exitcode=5)
        assert isinstance(jobs.submit(fail).exception(20), ValueError)
        assert jobs.submit(abs, -1).result(20) == 1
    assert list(qmill.map(abs, [-1, 2])) == [1, 2]


if __name__ == "__main__":
    qmill.set_start_method(sys.argv[1])
    globals()[sys.argv[2]]()
    can_hide = sys.argv[1] != "forkserver" and sys.argv[2] not in ("adopt_orphans", "own_namespace")
    main(is_known=KERNEL_KEEPS_CODES or not can_hide)
    print("done")
