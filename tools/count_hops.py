"""Count the Python frames that a job passes through: `python tools/count_hops.py [--list]`.

The numbers are of the program's process, from the call of `JobQueue.put` until the result is there:
in the caller's thread and in the dispatcher's, with a worker that is already running.

    frames   calls of Python functions
    changes  how often a thread's next frame is in another file than the one before
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from itertools import pairwise
from types import FrameType
from typing import Any, NamedTuple

import qmill

NUM_BEFORE = 5  # jobs that go first, so that everything is loaded and the function is known


class Frame(NamedTuple):
    """A call of a Python function."""

    thread: str
    file: str
    function: str


class Recorder:
    """Notes the calls of Python functions while it is on, in this thread and in those to come."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.is_on = False
        threading.setprofile(self)
        sys.setprofile(self)

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if self.is_on and event == "call":
            code, thread = frame.f_code, threading.current_thread().name
            self.frames.append(Frame(thread, code.co_filename, code.co_qualname))


def record() -> list[Frame]:
    """Return the frames of one job, in the order in which they began."""
    recorder = Recorder()
    with qmill.JobQueue(1) as jobs:
        for number in range(NUM_BEFORE):
            jobs.put(abs, (-number,)).result()
        recorder.is_on = True
        job = jobs.put(abs, (-1,))
        job.result()
        recorder.is_on = False
    sys.setprofile(None)
    # The profiler's own calls are none of the job's, and the job has ended when `result` returns.
    return [each for each in recorder.frames if each.file != __file__]


def num_changes(frames: list[Frame]) -> int:
    """Return how often the next frame of the same thread is in another file."""
    return sum(
        before.file != after.file
        for thread in {each.thread for each in frames}
        for before, after in pairwise(each for each in frames if each.thread == thread)
    )


def show(frames: list[Frame], *, has_list: bool) -> None:
    """Print the numbers, and the frames if they are wanted."""
    package = os.path.dirname(os.path.dirname(qmill.__file__))
    for thread in dict.fromkeys(each.thread for each in frames):
        own = [each for each in frames if each.thread == thread]
        print(f"{thread}: {len(own)} frames, {num_changes(own)} changes of file")
        for each in own if has_list else ():
            file = os.path.relpath(each.file, package)
            print(f"  {os.path.basename(file) if file.startswith('..') else file}  {each.function}")
    print(f"together: {len(frames)} frames, {num_changes(frames)} changes of file")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--list", action="store_true", help="name each frame")
    show(record(), has_list=parser.parse_args().list)


if __name__ == "__main__":
    main()
