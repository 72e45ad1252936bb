"""Where logging is set up, once for every command: nothing reaches a log or a terminal raw.

What a log line says may come from elsewhere: a peer's sentence, a file's name, a library's error.
Every character that is not printable (terminal escapes, line ends, bidirectional marks) is written
as its escape, so that no text can begin a line, colour it, or turn it round. A traceback keeps its
lines, each behind a bar that no record begins with.
"""

from __future__ import annotations

import logging
import sys
import threading
from datetime import UTC, datetime
from types import TracebackType

_PACKAGES = ("fedhelp_secure", "fedhelp_keys", "fedhelp_server", "fedhelp_client")
_LOGGER = logging.getLogger(__name__)


def one_line(text: str) -> str:
    """``text`` on one line: what `str.isprintable` calls not printable is written as its escape."""
    return "".join(mark if mark.isprintable() else _escape(mark) for mark in text)


class OneLineFormatter(logging.Formatter):
    """``time level logger: message``, in UTC, on one line; a traceback's lines begin with a bar."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as it is written."""
        at = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        lines = [f"{at} {record.levelname} {record.name}: {record.getMessage()}"]
        if record.exc_info:
            lines += self.formatException(record.exc_info).split("\n")
        if record.stack_info:
            lines += self.formatStack(record.stack_info).split("\n")
        return "\n  | ".join(map(one_line, lines))


def configure_logging() -> None:
    """Log to standard error: our own packages from INFO on, others from WARNING on.

    Errors that nobody caught, in any thread, are logged the same way. Call it once, at the start.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(OneLineFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in _PACKAGES:
        logging.getLogger(name).setLevel(logging.INFO)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def _escape(mark: str) -> str:
    return mark.encode("unicode_escape").decode("ascii")


def _log_uncaught(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    _LOGGER.critical("an error that nobody expected", exc_info=(kind, error, traceback))


def _log_uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_value is None or issubclass(arguments.exc_type, SystemExit):
        return
    _log_uncaught(arguments.exc_type, arguments.exc_value, arguments.exc_traceback)
