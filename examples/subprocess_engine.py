"""An engine of its own: runs jobs in interpreters that `subprocess` starts.

    dispatcher ── lesson, job ──> pipe ──> worker: this file, as a program
               <── answers, log ─

It is used by `qmill.JobQueue(4, engine=Subprocesses())`. Unlike the engine of `engine="process"`,
it waits for a worker that stops in the middle of a message, sends all through the pipe, and lets a
running job go on if the program is killed.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import sys
import threading
from functools import partial
from multiprocessing.connection import Connection, Pipe
from signal import SIGTERM
from subprocess import DEVNULL, Popen
from time import monotonic

from qmill.engines.api import DIED, FAILED, READY, SOME, EngineFactory, Report
from qmill.engines.codec import Codec, PackingEngine, split
from qmill.engines.knowledge import Knowledge
from qmill.engines.learnt import Learnt
from qmill.engines.log_records import log_levels
from qmill.engines.selecting import WorkerEngine
from qmill.errors import NotSupported, WorkerDied
from qmill.packing import definitions, main_module, serialize
from qmill.processes import child_main


class Subprocesses(EngineFactory):
    def make(self, settings):
        if settings.max_memory_per_worker is not None:
            raise NotSupported("max_memory_per_worker: this engine does not measure memory")
        return SubprocessEngine(settings)


class Worker:
    """An interpreter with one job or none."""

    def __init__(self, name, codec):
        self.name = name
        self.pipe, theirs = Pipe()
        with theirs:
            command, fds = [sys.executable, __file__, str(theirs.fileno())], [theirs.fileno()]
            self.process = Popen(command, stdin=DEVNULL, pass_fds=fds, process_group=0)
        self.pid, self.pidfd = self.process.pid, os.pidfd_open(self.process.pid)
        self.knowledge = Knowledge(codec)
        self.job, self.parts = None, []  # and results of the job's chunk that have come
        self.num_given, self.since_s = 0, monotonic()
        self.ready = self.is_leaving = False

    def tell(self, message):
        with contextlib.suppress(OSError):  # it has died, which its pidfd shows
            self.pipe.send(message)


class SubprocessEngine(PackingEngine, WorkerEngine):
    can_kill = True

    def __init__(self, settings):
        self.codec = Codec(definitions.Names.NEVER)  # workers do not import the program
        call = settings.initializer, settings.initargs
        self._initializer = serialize.dumps(call, serialize.InlineExports(definitions.Names.NEVER))
        self._accepted = []
        self._is_patient = True
        super().__init__(settings)

    def offer(self, job):
        if not self._idle:
            return False
        worker = self._idle.pop()
        worker.job, worker.since_s = job, monotonic()
        worker.num_given += 1
        self._accepted.append(worker)
        return True

    def flush(self):
        accepted, self._accepted = self._accepted, []
        for worker in accepted:
            lesson = worker.knowledge.lesson_for(worker.job)
            shares = {key: bytes(handle.packed()) for key, handle in lesson.shares.items()}
            head, data = split(worker.job._packet)
            worker.tell((lesson._replace(shares=shares), head, bytes(data), worker.job._to_do))

    @property
    def num_startable(self):
        return self.max_workers - sum(not worker.is_leaving for worker in self._workers)

    def _start_worker(self):
        worker = Worker(next(self._names), self.codec)
        self._workers.append(worker)
        worker.tell((worker.name, sys.path, log_levels(), self._initializer))
        for file, act in ((worker.pipe, self._read), (worker.pidfd, self._ended)):
            self._selector.register(file, selectors.EVENT_READ, partial(act, worker))

    def _has_no_job(self, worker):
        is_spent = worker.num_given == self._settings.max_jobs_per_worker
        if is_spent or worker.is_leaving or self.num_startable < 0:
            self._dismiss(worker)
        else:
            self._idle.append(worker)

    def _dismiss(self, worker):
        worker.is_leaving = True
        worker.tell(None)
        if not self._is_patient:  # with threads of its jobs
            self._trees.end(worker.pid, SIGTERM)

    def resize(self, max_workers):
        super().resize(max_workers)
        while self._idle and self.num_startable < 0:
            self._dismiss(self._idle.pop())

    def stop_workers(self):
        while self._idle:
            self._dismiss(self._idle.pop())

    def hurry(self):
        self._is_patient = False
        for worker in self._workers:
            if worker.is_leaving:
                self._trees.end(worker.pid, SIGTERM)

    def kill(self, job):
        for worker in self._workers:
            if worker.job is job:
                worker.is_leaving = True
                self._trees.end(worker.pid, SIGTERM)  # after a grace, SIGKILL

    def _read(self, worker):
        try:
            what, data, *moments = worker.pipe.recv()
        except (EOFError, OSError):  # it is ending
            self._close_pipe(worker)
            return
        if what <= FAILED:
            job, name = worker.job, worker.name
            self._report(worker, self.codec.answer(what, job, data, *moments, name, worker.parts))
            self._has_no_job(worker)
        elif what is SOME:
            worker.parts.append((what, data))
        elif what is READY:
            worker.ready = True
            self._has_no_job(worker)
        elif report := self.codec.take(worker.name, what, data):  # a record of a log
            self._reports.append(report)

    def _report(self, worker, report):
        self._reports.append(report)
        worker.job, worker.parts = None, []

    def _close_pipe(self, worker):
        if not worker.pipe.closed:
            self._selector.unregister(worker.pipe)
            worker.pipe.close()

    def _ended(self, worker):
        while not worker.pipe.closed and worker.pipe.poll():
            self._read(worker)
        self._close_pipe(worker)
        self._selector.unregister(worker.pidfd)
        os.close(worker.pidfd)
        self._workers.remove(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        code, job = worker.process.wait(), worker.job
        if job is not None:
            self._trees.end(worker.pid, SIGTERM)  # and the processes that the job has started
            death = WorkerDied(worker.pid, code, -code if code < 0 else None, job.name)
            report = Report(DIED, job, death, worker.since_s, monotonic(), code, worker.name)
            if job._is_chunk:
                report = self.codec.chunk(report, worker.parts)
            self._report(worker, report)


def work(pipe):
    """Run jobs until the message to end; the other side of a `Worker`."""
    lock = threading.RLock()  # threads of jobs may log

    def send(what, job, parts, started=0.0, ended=0.0):
        with lock:
            pipe.send((what, b"".join(parts), started, ended))

    learnt = Learnt(send)
    name, sys.path[:], levels, initializer = pipe.recv()
    main_module.adopt(None)
    error = None
    try:
        learnt.begin(name, levels, *serialize.loads(initializer))
    except BaseException as why:
        error = why  # of each job that comes
    send(READY, 0, [])
    while (message := pipe.recv()) is not None:
        lesson, head, data, to_do = message
        learnt.learn(lesson)
        learnt.answer(head, error or data, to_do)
    child_main.finish()  # while log records can be sent


if __name__ == "__main__":
    descriptor = int(sys.argv[1])
    os.set_inheritable(descriptor, False)
    with contextlib.suppress(EOFError):  # the program has ended
        work(Connection(descriptor))
