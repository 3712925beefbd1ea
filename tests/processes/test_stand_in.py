"""What a browser is told that asks a process which is away for a page, or for a file of it."""

from __future__ import annotations

import pytest

from tornado_chat.processes.stand_in import _ask_again


@pytest.mark.parametrize(
    ("target", "again"),
    [
        ("/", "./"),
        ("/?token=x", "./?token=x"),
        ("/static/client/room.js", "room.js"),
        ("/agent/bot%201?x", "bot%201?x"),
        ("/agent/", None),
        ("/agent/a:b", None),
        ("/v1/rooms/lobby/events", None),
    ],
)
def test_a_page_is_asked_for_again(target: str, again: str | None) -> None:
    """Relative to where it was: a proxy may have put the server below a path."""
    answer = _ask_again(f"GET {target} HTTP/1.1\r\nHost: x\r\n".encode())
    told = None if answer is None else answer.decode().partition("Location: ")[2].partition("\r\n")[0]
    assert told == again
