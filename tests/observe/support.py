"""Records and queues for these tests."""

from __future__ import annotations

import builtins
from datetime import datetime, timedelta

START = datetime(2030, 1, 1, 12)


def record(number, submitted=0.0, started=None, ended=None, processed=None, **more):
    """Return a record as `Job.to_dict` does, its moments in seconds from `START`."""
    moments = {
        "submitted": submitted,
        "started": started,
        "ended": ended,
        "processed": processed,
    }
    times = {
        name: None if moment is None else START + timedelta(seconds=moment)
        for name, moment in moments.items()
    }
    return {
        "qid": "q",
        "id": number,
        "name": number,
        "priority": 100,
        "lane": None,
        "cancelled": False,
        "exitcode": 0,
        "output": None,
        "state": "done",
        **times,
        **more,
    }


def staircase(count, **more):
    """Return records of jobs that run one after another."""
    return [record(n, 0.0, n, n + 1.0, n + 1.1, **more) for n in range(1, count + 1)]


def hide(monkeypatch, package):
    """Have a package not be installed."""
    real_import = builtins.__import__

    def import_(name, *args, **kwargs):
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", import_)
