"""Logging: one line per event, as text or as JSON.

Every module logs through ``logging.getLogger(__name__)`` with a constant message and its variables
in ``extra=``; the formatters here print those fields. ``configure`` is called once per process.
Faults of peers go through ``PeerFaultLog``, so that a hostile client cannot fill the disk.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, Literal, TextIO

from tidegate.core.rate import TokenBucket

#: What every record has by itself; whatever else it carries came through ``extra=``.
_OWN_ATTRIBUTES: Final = frozenset(
    vars(logging.LogRecord("", 0, "", 0, "", (), None)) | {"message": "", "asctime": ""}
)
_PLAIN: Final = (str, int, float, bool, type(None))
_MAX_FIELD_CHARACTERS: Final = 1024


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return what was passed in ``extra=``, in that order."""
    return {key: value for key, value in vars(record).items() if key not in _OWN_ATTRIBUTES}


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_FIELD_CHARACTERS else text[:_MAX_FIELD_CHARACTERS] + "…"


def _time_of(record: logging.LogRecord) -> str:
    return f"{_second_of(int(record.created))}.{int(record.msecs):03}Z"


@lru_cache(maxsize=2)
def _second_of(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="seconds").removesuffix("+00:00")


class TextFormatter(logging.Formatter):
    """``time level logger: message key=value …``; values with spaces or controls are quoted.

    ``process``, if there is one, stands before the logger.
    """

    def __init__(self, process: str = "") -> None:
        super().__init__()
        self._process = f"{process} " if process else ""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line (with the traceback below it, if there is one)."""
        logger = record.name.removeprefix("tidegate.")
        head = f"{_time_of(record)} {record.levelname:<7} {self._process}{logger}"
        parts = [f"{head}: {record.getMessage()}"]
        parts += [f"{key}={self._quoted(value)}" for key, value in fields_of(record).items()]
        line = " ".join(parts)
        if record.exc_info:
            line = f"{line}\n{self.formatException(record.exc_info)}"
        return line

    @staticmethod
    def _quoted(value: object) -> str:
        text = _shortened(str(value))
        # What peers choose (client identifiers) must not be able to forge lines or terminal codes.
        is_printable = text.isprintable()
        if not text or not is_printable or " " in text or '"' in text or "=" in text:
            return json.dumps(text, ensure_ascii=not is_printable)
        return text


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, the extra fields, exception.

    ``process``, if there is one, is one more field.
    """

    def __init__(self, process: str = "") -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Return the object as one line."""
        entry: dict[str, Any] = {
            "time": _time_of(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self._process:
            entry["process"] = self._process
        for key, value in fields_of(record).items():
            plain = value if isinstance(value, _PLAIN) else str(value)
            entry.setdefault(key, _shortened(plain) if isinstance(plain, str) else plain)
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def configure(
    level: Literal["debug", "info", "warning", "error"] = "info",
    style: Literal["text", "json"] = "text",
    stream: TextIO | None = None,
    process: str = "",
) -> None:
    """Send everything from ``level`` up to ``stream`` (standard error), replacing what was set.

    ``process`` is put into every line, for processes whose lines go to one place.
    Libraries below us are kept to warnings unless the level is debug.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(process) if style == "json" else TextFormatter(process))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    numeric = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(numeric if level == "debug" else max(numeric, logging.WARNING))
    logging.getLogger("tidegate").setLevel(numeric)


def write_line(log: logging.Logger, message: str, fields: Mapping[str, object]) -> None:
    """Write one line at INFO, which the caller has found to be enabled.

    For lines that many clients cause: the place in the source is not looked up.
    """
    record = logging.LogRecord(log.name, logging.INFO, "", 0, message, None, None)
    vars(record).update(fields)
    log.handle(record)


class PeerFaultLog:
    """Logs faults of peers at INFO, at most ``per_s`` lines in a second.

    ``write`` follows ``may_write``, so that nothing is made of a line that is not written. Such
    lines are counted, and the count is in the next line that is written (``suppressed=``). Every
    fault is also counted in the metrics.
    """

    __slots__ = ("_bucket", "_clock", "_log", "suppressed")

    def __init__(
        self, log: logging.Logger, per_s: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._bucket = TokenBucket(per_s, per_s, clock())
        self._clock = clock
        self.suppressed = 0

    def may_write(self) -> bool:
        """Whether a line may be written now; one that may not is counted."""
        if not self._log.isEnabledFor(logging.INFO):
            return False
        if self._bucket.take(self._clock()):
            return True
        self.suppressed += 1
        return False

    def write(self, message: str, fields: Mapping[str, object]) -> None:
        """Write a line."""
        extra = dict(fields)
        if self.suppressed:
            extra["suppressed"] = self.suppressed
            self.suppressed = 0
        write_line(self._log, message, extra)
