"""Progress bars, by tqdm. Events of the queue update them; they never poll."""

from __future__ import annotations

import functools
import sys
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any

from . import missing_extra

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..job_queue.dispatch import Dispatcher, Progress

_PERIOD_S = 0.05  # the least time between two updates of a bar by results


def bar_type(progress: Any) -> Callable[..., Any] | None:
    """Return a function that makes progress bars, or None for no bar.

    Args:
        progress: False or None for no bar. True for `tqdm.auto.tqdm`, if the standard error is a
            terminal or a notebook. Or a class like `tqdm.tqdm`, or a function that returns such a
            bar; it is always used.

    Raises:
        TypeError: `progress` is none of these.
        ImportError: tqdm is not installed.
    """
    if progress is None or progress is False:
        return None
    if progress is not True:
        if not callable(progress):
            raise TypeError(
                "progress must be True, False or a class like tqdm.tqdm, not "
                f"{type(progress).__name__} {progress!r}"
            )
        make: Callable[..., Any] = progress
        return make
    make = _own_bar_type()
    return make if _is_watched() else None


def _own_bar_type() -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise missing_extra("progress=True", "progress", error) from None
    # Without tqdm's thread, which refreshes bars every 10 s, and without its lock for processes,
    # which is a semaphore: only one process draws these bars.
    bar: Any = type("Bar", (tqdm,), {"monitor_interval": 0})
    bar.set_lock(threading.RLock())
    return functools.partial(bar, unit="job", miniters=1)


def _is_watched() -> bool:
    """Return whether the standard error is a terminal or a notebook."""
    try:
        if sys.stderr.isatty():
            return True
    except (AttributeError, ValueError):  # there is no standard error, or it is closed
        return False
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


class _Bar:
    """A bar that is always closed in the end, and whose write errors do not stop the jobs."""

    def __init__(
        self, make_bar: Callable[..., Any], total: int | None, initial: int, before: Progress
    ) -> None:
        self._before = before
        self._bar: Any = make_bar(total=total, initial=initial)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._tell(lambda bar: bar.close())

    def advance(self, num_new: int, counts: Progress, total: int | None = None) -> None:
        """Show that `num_new` more jobs are done."""
        failed = counts.failed - self._before.failed
        words = [f"{failed} failed"] if failed else []
        if counts.working:
            words.append(f"{counts.working} running")

        def draw(bar: Any) -> None:
            if total is not None:
                bar.total = total
            if hasattr(bar, "set_postfix_str"):
                bar.set_postfix_str(", ".join(words), refresh=False)
            bar.update(num_new)

        self._tell(draw)

    def _tell(self, what: Callable[[Any], None]) -> None:
        if self._bar is None:
            return
        try:
            what(self._bar)
        except (OSError, ValueError):  # the bar's file is closed; the jobs go on
            self._bar = None


def watch(
    make_bar: Callable[..., Any],
    dispatcher: Dispatcher,
    before: Progress,
    aim: int,
    deadline: float,
) -> int:
    """Wait until no more than `aim` jobs are left, with a bar of the queue's jobs.

    Args:
        make_bar: From `bar_type`.
        dispatcher: The queue's dispatcher.
        before: The queue's counts before the first job that the bar counts.
        aim: How many jobs may be left.
        deadline: When to stop waiting, on the monotonic clock; inf is no limit.

    Returns:
        How many jobs are left.
    """
    counts = dispatcher.progress()
    initial = counts.completed - before.completed
    with _Bar(make_bar, initial + counts.left, initial, before) as bar:
        bar.advance(0, counts)
        while counts.left > aim:
            if (new := _next_counts(dispatcher, counts, deadline)) is None:
                break
            total = new.completed - before.completed + new.left
            bar.advance(new.completed - counts.completed, new, total)
            counts = new
    return counts.left


def _next_counts(dispatcher: Dispatcher, counts: Progress, deadline: float) -> Progress | None:
    """Wait until a count has changed; None if the deadline has passed."""
    with dispatcher.changed:
        while (new := dispatcher.progress()) == counts:
            left_s = min(deadline - monotonic(), threading.TIMEOUT_MAX)
            if left_s <= 0 or not dispatcher.changed.wait(left_s):
                return None
        return new


def follow(
    make_bar: Callable[..., Any],
    results: Iterator[Any],
    total: int | None,
    dispatcher: Dispatcher,
) -> Iterator[Any]:
    """Yield results, with a bar that counts them.

    Args:
        make_bar: From `bar_type`.
        results: The results of a `map`; closed together with this iterator.
        total: How many results there will be, if that is known.
        dispatcher: The queue's dispatcher.
    """
    num_new, due_s = 0, 0.0
    counts = dispatcher.progress()
    with _Bar(make_bar, total, 0, counts) as bar:
        try:
            for result in results:
                num_new += 1
                if (now := monotonic()) >= due_s:
                    bar.advance(num_new, dispatcher.progress())
                    num_new, due_s = 0, now + _PERIOD_S
                yield result
        finally:
            results.close()  # type: ignore[attr-defined]  # it is a generator
            bar.advance(num_new, dispatcher.progress())
