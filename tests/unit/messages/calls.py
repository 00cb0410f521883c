"""Messages that are put and counted, and calls in a thread."""

from __future__ import annotations

import threading

LIMIT_S = 30.0


def data_of(messages):
    return [message.data for message in messages]


def fill(q, orders):
    for order in orders:
        q.put(f"#{order}", order=order)


def orders_of(messages):
    return [message.order for message in messages]


def counts(q):
    found = q.statistics()
    return found.leased, found.unfinished


def in_thread(function):
    """Run a function in a thread; returns a function that waits for its result."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()), daemon=True)
    thread.start()

    def result():
        thread.join(LIMIT_S)
        assert results, "the thread hangs or has failed"
        return results[0]

    return result
