from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tornado_chat import logs

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (debug|info|warning|error|critical) \S+ .*")


@pytest.fixture(autouse=True)
def the_logging_of_the_test_run() -> Iterator[None]:
    """`configure` is for a whole process: put back what it changes."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level
    logging.captureWarnings(False)


def record(message: object, *args: object, error: BaseException | None = None) -> logging.LogRecord:
    exc_info = (type(error), error, error.__traceback__) if error else None
    return logging.LogRecord("chat.test", logging.WARNING, "x.py", 1, message, args, exc_info)


def text(message: object, *args: object, error: BaseException | None = None) -> str:
    """What stands after the time."""
    line = logs.TextFormatter().format(record(message, *args, error=error))
    return line.partition(" ")[2]


def test_one_line_with_its_facts() -> None:
    line = logs.TextFormatter().format(record("log unavailable entries=%d reason=%s", 3, "disk full"))
    assert LINE.fullmatch(line)
    assert line.endswith('Z warning chat.test log unavailable entries=3 reason="disk full"')


@pytest.mark.logs("no answer")
def test_a_warning_that_repeats_is_written_now_and_then_with_how_often_it_came(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    monkeypatch.setattr(logs, "monotonic", lambda: now)
    repeated = logs.Repeated(logging.getLogger("chat.test"), 10)
    for second in range(25):
        now = float(second)
        for _ in range(4):
            repeated.warning("no answer reason=%s", "it is away")
    assert caplog.messages == [
        "no answer reason=it is away times=1",
        "no answer reason=it is away times=40",
        "no answer reason=it is away times=40",
    ]


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("bob", "bob"),
        ("", '""'),
        ("a b", '"a b"'),
        ("a=b", '"a=b"'),
        ('say "hi"', '"say \\"hi\\""'),
        ("a\nb", '"a\\nb"'),
        ("a\\nb", '"a\\\\nb"'),
        ("\u2028", '"\\u2028"'),
        ("\x1b[31m", '"\\x1b[31m"'),
        ("\ud800", '"\\ud800"'),
        ("Zoë", "Zoë"),
        (None, "None"),
        (1.5, "1.5"),
    ],
)
def test_a_fact_reads_as_one_word(value: object, word: str) -> None:
    assert text("closed user=%s", value) == f"warning chat.test closed user={word}"


def test_conversions_count_in_text() -> None:
    assert text("slow ms=%.1f path=%r", 1.25, "/").endswith("slow ms=1.2 path=\"'/'\"")


def test_messages_that_are_not_ours() -> None:
    assert text("%d %s", 404, "/x").endswith(" 404 /x")
    assert text("100% of key=%%").endswith(" 100% of key=%%")
    assert text("a=%s b %s", 1, 2).endswith(" a=1 b 2")
    assert text("a key=%(x)s", {"x": 1}).endswith(" a key=1")
    assert text(ValueError("odd")).endswith(" odd")


@given(st.text(), st.text())
def test_no_input_makes_a_second_line(message: str, value: str) -> None:
    for line in (text("%s", message), text("m v=%s", value)):
        assert line.isprintable()
    formatted = logs.JSONFormatter().format(record("m a=%s v=%s", message, value))
    assert not set("\r\n") & set(formatted)
    assert json.loads(formatted)["message"] == "m"


def failed(message: str) -> BaseException:
    try:
        raise ValueError(message)
    except ValueError as error:
        return error


def test_a_traceback_follows_indented() -> None:
    lines = text("failed", error=failed("one\n2026-01-01T00:00:00.000Z info chat forged\x85two\x1b")).split("\n")
    assert lines[0] == "warning chat.test failed"
    assert lines[1] == "    Traceback (most recent call last):"
    assert "    2026-01-01T00:00:00.000Z info chat forged" in lines
    assert all(line.startswith("    ") and line.isprintable() for line in lines[1:])


def test_json() -> None:
    line = logs.JSONFormatter().format(record("closed user=%s code=%d seconds=%.1f", 'a "b"\n', 1006, 1.25))
    assert "\n" not in line
    found = json.loads(line)
    assert LINE.fullmatch(f"{found.pop('time')} info x y")
    assert found == {
        "level": "warning",
        "logger": "chat.test",
        "message": "closed",
        "user": 'a "b"\n',
        "code": 1006,
        "seconds": 1.25,
    }


def test_json_has_the_traceback_in_one_field() -> None:
    line = logs.JSONFormatter().format(record("failed", error=failed("one\ntwo")))
    assert "\n" not in line
    assert json.loads(line)["traceback"].endswith("ValueError: one\ntwo")


@pytest.mark.parametrize("value", ["\ud800", 1 << 70, [{1: 2}], ValueError("odd"), float("nan"), b"x"])
def test_json_of_anything(value: object) -> None:
    found = json.loads(logs.JSONFormatter().format(record("m value=%s", value)))
    assert found["message"] == "m"
    assert "value" in found


TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl-_"


@pytest.mark.parametrize(
    "said",
    [
        f"GET /ws?token={TOKEN}&after=1",
        "GET /ws?after=1&token=abc.def",
        f"Authorization: Bearer {TOKEN}",
        f"Sec-WebSocket-Protocol: chat.v1.json, bearer.{TOKEN}",
        f"Cookie: chat_session={TOKEN}; x=1",
    ],
)
def test_no_token_in_message_fact_or_traceback(said: str) -> None:
    for formatter in (logs.TextFormatter(), logs.JSONFormatter()):
        for made in (
            record(said),
            record("%s", said),
            record("m uri=%s", said),
            record("m", error=failed(f"\n{said}")),
        ):
            line = formatter.format(made)
            assert "(hidden)" in line
            assert "eyJ" not in line
            assert "abc.def" not in line


def test_configure() -> None:
    stream = io.StringIO()
    logs.configure("json", "info", stream)
    logging.getLogger("chat.test").debug("no")
    logging.getLogger("chat.test").info("yes user=%s", "bob")
    logs.configure("text", "error", stream)
    logging.getLogger("chat.test").warning("no")
    logging.getLogger("chat.test").error("yes")
    first, second = stream.getvalue().splitlines()
    assert json.loads(first)["user"] == "bob"
    assert second.endswith("Z error chat.test yes")


def test_the_worker_is_a_fact_of_each_line() -> None:
    stream = io.StringIO()
    for format in ("text", "json"):
        logs.configure(format, "info", stream, worker=3)
        logging.getLogger("chat.test").info("started port=%d", 80)
        logging.getLogger("chat.test").info("another has ended worker=%d", 7)
    first, second, third, fourth = stream.getvalue().splitlines()
    assert first.endswith("started port=80 worker=3")
    assert second.endswith("ended worker=7"), "a line about another worker"
    assert json.loads(third)["worker"] == 3
    assert json.loads(fourth)["worker"] == 7
