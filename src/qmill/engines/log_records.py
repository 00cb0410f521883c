"""Log records of workers: sent to the parent, whose handlers handle them."""

from __future__ import annotations

import contextlib
import logging
import pickle
from typing import TYPE_CHECKING, Any

from ..packing import serialize
from ..packing.explain import describe
from .api import LOGGED

if TYPE_CHECKING:
    from .learnt import Learnt

_PLAIN = (str, int, float, bool, type(None))


class _Forwarder(logging.Handler):
    """Sends log records to the parent, whose handlers handle them."""

    def __init__(self, learnt: Learnt, worker: str) -> None:
        super().__init__()
        self._learnt = learnt
        self._worker = worker

    def emit(self, record: logging.LogRecord) -> None:
        """Send a log record with its message as text: its arguments need not be sendable."""
        try:
            fields = dict(vars(record))
            fields["msg"] = record.getMessage()
            fields["args"] = None
            if record.exc_info:
                fields["exc_text"] = logging.Formatter().formatException(record.exc_info)
            fields["exc_info"] = None
            fields["processName"] = self._worker
            fields["jobName"] = self._learnt.job_name
            self._learnt.send(LOGGED, 0, [_sendable(fields)])
        except OSError:
            pass  # the parent is gone, or a job has closed our descriptors
        except Exception:
            self.handleError(record)


def _sendable(fields: dict[str, Any]) -> bytes:
    """Pack a log record's fields; one that is no plain value separately, and as text, too."""
    plain = {name: value for name, value in fields.items() if type(value) in _PLAIN}
    others: dict[str, tuple[bytes | bytearray | None, str]] = {}
    for name in fields.keys() - plain.keys():
        text = describe(fields[name])
        try:
            others[name] = serialize.dumps(fields[name]), text
        except Exception:  # an `extra` field that cannot be pickled
            others[name] = None, text
    return pickle.dumps((plain, others), 5)


def rebuild_record(data: bytes | memoryview) -> logging.LogRecord:
    """Rebuild a log record in the parent."""
    fields, others = pickle.loads(data)
    for name, (packed, text) in others.items():
        fields[name] = text
        if packed is not None:
            with contextlib.suppress(BaseException):  # rebuilding may raise anything
                fields[name] = serialize.loads(packed)
    return logging.makeLogRecord(fields)


def forward(learnt: Learnt, worker: str, levels: dict[str, int]) -> None:
    """Send all log records of this process, a worker, to its parent.

    Args:
        learnt: Sends them, and knows the name of the present job.
        worker: The name of this worker.
        levels: The result of `log_levels` in the parent.
    """
    root = logging.getLogger()
    for logger in [root, *logging.root.manager.loggerDict.values()]:
        if isinstance(logger, logging.Logger):  # after a fork, the parent's handlers are here, too
            logger.handlers.clear()
            logger.propagate = True
    root.addHandler(_Forwarder(learnt, worker))
    for name, level in levels.items():
        logging.getLogger(name or None).setLevel(level)


def log_levels() -> dict[str, int]:
    """Return the levels that were set for this process's loggers."""
    levels = {"": logging.getLogger().level}
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and logger.level:
            levels[name] = logger.level
    return levels
