"""What is measured of messages that grow, beside what others do: an edit, or an event for each reader, a token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.bench import Bench, Figures
from bench.servers import Dialect, ours, stream_peers
from bench.tools import Tools

PACE = 50.0  # tokens a second of each message
TOKEN_CHARS, MARKER_CHARS = 4, 30
EDIT = '{"type":"edit","room":"room-{room}","seq":1,"text":"{text}","id":"{number}"}'
EDITED = (
    '{"type":"edited","room":"room-{room}","seq":{number},"target":1,"user":"guest-0123456789abcdef",'
    '"text":"{text}","ts":1000000000000,"id":"{number}"}'
)
"""What is sent for each token where that edits the message: to ours, and, as the event that ours makes, to a peer."""
TOKEN = '{"type":"token","message":"0123456789abcdef","text":"{text}"}'
"""What a peer is sent for each token where that is an event by itself; ours gets a message with the token."""


def tellers(tools: Tools) -> Mapping[str, Dialect]:
    """Ours, and FastAPI with WebSockets, to which a text is sent again for each token, and with streams."""
    return {"ours": ours()} | {name: dialect for name, dialect in stream_peers(tools).items() if name == "fastapi"}


def growing(bench: Bench, dialect: Dialect, rooms: int, members: int) -> Figures:
    """`authors` messages grow in `rooms` rooms of so many members; and what else is done with as many tokens.

    `edited_cores` and `event_cores` are reckoned: what the server takes for one delivery, where as much is sent as gets
    through, times the deliveries of all these tokens. In the one, each token is an edit of its message, with the whole
    text; in the other it is an event by itself on the stream of each reader.
    """
    deliveries = bench.size.authors * PACE * members
    figures: Figures = {}
    if dialect.name == "ours":
        figures = grown(bench, dialect, rooms, members)
    else:
        rooms = 1  # it has no others
    figures["edited_cores"] = edited(bench, dialect, rooms, members)["cpu_us"] / 1e6 * deliveries
    figures["event_cores"] = streamed(bench, dialect, rooms, members)["cpu_us"] / 1e6 * deliveries
    return figures


def grown(bench: Bench, dialect: Dialect, rooms: int, members: int) -> Figures:
    """The authors are among the members. `cores`: CPU seconds of the server a second."""
    with bench.server(dialect) as server, bench.load() as load:
        load.connect(server, rooms * members, rooms=rooms, timeout=120)
        load.grow(authors=bench.size.authors, tokens=bench.size.tokens, rate=PACE)
        found = bench.measure(server, load)
        load.ask("stop")
        load.drain()
    return {
        "cores": found["cpu_us"] * found["delivered"] / 1e6,
        "first_p50_ms": found["p50_ms"],
        "first_p99_ms": found["p99_ms"],
    }


def edited(bench: Bench, dialect: Dialect, rooms: int, members: int) -> Figures:
    """One publisher in each room edits its message, as many edits under way in all as there are authors.

    Each has the mean text of a message that grows: half of it.
    """
    chars = max(MARKER_CHARS, bench.size.tokens * TOKEN_CHARS // 2)
    window = max(1, bench.size.authors // rooms)
    ours = dialect.name == "ours"
    with bench.server(dialect) as server, bench.load() as load:
        load.connect(server, rooms * members, rooms=rooms, timeout=120)
        load.publish(server, window=1, count=1)
        load.drain(least=1)
        load.publish(server, message=EDIT if ours else EDITED, text=chars, window=window)
        found = bench.measure(server, load)
        load.ask("stop")
        load.drain()
        return found


def streamed(bench: Bench, dialect: Dialect, rooms: int, members: int) -> Figures:
    """Each token is an event by itself, on the streams of all members but its publisher, with as many under way."""
    window = max(1, bench.size.authors // rooms)
    fields: dict[str, Any] = {"kind": "stream", "path": dialect.stream, "publisher": dialect.path}
    with bench.server(dialect) as server, bench.load() as load:
        load.connect(server, rooms * members, rooms=rooms, timeout=120, **fields)
        message = dialect.message if dialect.name == "ours" else TOKEN
        load.publish(server, message=message, text=MARKER_CHARS, window=window, witnesses=2)
        found = bench.measure(server, load)
        load.ask("stop")
        load.drain()
        return found
