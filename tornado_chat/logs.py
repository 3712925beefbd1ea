"""Logging: one line a fact, as text or as JSON, without tokens.

`log.warning("log unavailable entries=%d reason=%s", count, error)` has the message "log unavailable" and two facts,
which text quotes where they would not read as one word, and JSON keeps as fields of their own.
"""

from __future__ import annotations

import logging
import math
import re
import sys
import traceback
from datetime import UTC, datetime
from time import monotonic
from typing import Any, TextIO

import orjson

_FACT = re.compile(r" (\w+)=(%[.0-9]*[a-z])")
_Fact = tuple[str, str, Any]
_TOKEN = re.compile(r"(token=)[^&\s\"'\\]+|eyJ[\w-]+\.[\w-]*\.[\w-]*")
"""A token in a query, and anything that looks like a JWT: a second line of defence, for nobody should log one."""


def configure(format: str, level: str, stream: TextIO | None = None, *, worker: int | None = None) -> None:
    """Log to `stream` (standard error) from now on; `format` and `level` are those of Settings.

    `worker`: the number of this process among several, a fact of each line.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JSONFormatter(worker) if format == "json" else TextFormatter(worker))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    # Its warnings are about what strangers sent, who could fill a disk with them; handlers answer those in any case.
    logging.getLogger("tornado.general").setLevel(logging.ERROR)


class Repeated:
    """A warning that a lasting state gives rise to again and again: written at once, then once in `seconds` at most."""

    __slots__ = ("_logger", "_next", "_seconds", "_times")

    def __init__(self, logger: logging.Logger, seconds: float = 10.0) -> None:
        self._logger = logger
        self._seconds = seconds
        self._next = -math.inf
        self._times = 0  # since it was written last

    def warning(self, message: str, *facts: object) -> None:
        """As `logger.warning`, with `times`, how often it came since it was written last."""
        self._times += 1
        now = monotonic()
        if now >= self._next:
            self._logger.warning(message + " times=%d", *facts, self._times)
            self._next = now + self._seconds
            self._times = 0


class _Formatter(logging.Formatter):
    def __init__(self, worker: int | None = None) -> None:
        super().__init__()
        self._worker = worker

    def _parts(self, record: logging.LogRecord) -> tuple[str, list[_Fact]]:
        message, facts = _parts(record)
        if self._worker is not None and all(key != "worker" for key, _, _ in facts):
            facts.append(("worker", "%d", self._worker))
        return message, facts


class TextFormatter(_Formatter):
    """`time level logger message key=value ...`; a traceback follows, indented: no input can forge a line."""

    def format(self, record: logging.LogRecord) -> str:
        message, facts = self._parts(record)
        words = [_time(record), record.levelname.lower(), record.name, _escaped(message)]
        words += [f"{key}={_word(conversion % value)}" for key, conversion, value in facts]
        lines = [" ".join(words)]
        lines += ["    " + _escaped(line) for line in _traceback(record).splitlines()]
        return _scrubbed("\n".join(lines))


class JSONFormatter(_Formatter):
    """One object a line: `time`, `level`, `logger`, `message`, then the facts; a traceback is the field `traceback`."""

    def format(self, record: logging.LogRecord) -> str:
        message, facts = self._parts(record)
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
        }
        for key, _, value in facts:
            line.setdefault(key, value)
        if trace := _traceback(record):
            line["traceback"] = trace
        try:
            encoded = orjson.dumps(line, default=str)
        except orjson.JSONEncodeError:  # a lone surrogate, or an integer past 64 bits
            encoded = orjson.dumps({key: _escaped(str(value)) for key, value in line.items()})
        return _scrubbed(encoded.decode())


def _parts(record: logging.LogRecord) -> tuple[str, list[_Fact]]:
    """The message without its facts, and each fact's key, conversion and value."""
    found = _FACT.findall(record.msg) if isinstance(record.msg, str) else []
    if not found or not isinstance(record.args, tuple) or not len(found) == len(record.args) == record.msg.count("%"):
        return record.getMessage(), []
    facts = [(key, conversion, value) for (key, conversion), value in zip(found, record.args, strict=True)]
    return _FACT.sub("", record.msg), facts


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC).replace(tzinfo=None)
    return moment.isoformat(timespec="milliseconds") + "Z"


def _traceback(record: logging.LogRecord) -> str:
    parts = []
    if record.exc_info and record.exc_info[1] is not None:
        parts.append("".join(traceback.format_exception(record.exc_info[1])).rstrip("\n"))
    if record.stack_info:
        parts.append(record.stack_info)
    return "\n".join(parts)


def _scrubbed(text: str) -> str:
    return _TOKEN.sub(lambda match: (match[1] or "") + "(hidden)", text)


def _escaped(text: str) -> str:
    """`text` with everything that is not printable as an escape: line ends, control characters, lone surrogates."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _word(text: str) -> str:
    if text and text.isprintable() and not any(c in text for c in " =\"'\\"):
        return text
    return '"' + _escaped(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'
