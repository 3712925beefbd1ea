"""Every wrong command, over real sockets: one error that names the field, nothing kept, and the connection goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.chat import Client, running
from tests.support.wrong_commands import (
    DEEP,
    FULL,
    ONLY_MSGPACK,
    REQUIRED,
    TEXT_CHARS,
    as_json,
    as_msgpack,
    bad,
    message,
)

Case = tuple[bytes, str]
"""A payload, and the field that the error must name: what stands before the first colon of its `message`."""


def json_cases(name: str) -> Iterator[Case]:
    for field in [*FULL[name], *(["last"] if name == "join" else [])]:
        for value in bad(name, field):
            yield as_json(message(name, **{field: value})), field
        for value in (float("nan"), float("inf"), float("-inf")):
            yield as_json(message(name, **{field: value})), "message"
    for field in REQUIRED[name]:
        yield as_json({key: value for key, value in message(name).items() if key != field}), field
    yield as_json(message(name) | {"type": name.upper()}), "type"
    yield as_json([message(name)]), "message"
    yield as_json(message(name))[:-1], "message"
    yield as_json(message(name)) + b"}", "message"


def msgpack_cases(name: str) -> Iterator[Case]:
    for field in [*FULL[name], *(["last"] if name == "join" else [])]:
        for value in [*bad(name, field), *ONLY_MSGPACK]:
            if not isinstance(value, int) or -(2**63) <= value < 2**64:  # MessagePack has no larger ones
                try:
                    yield as_msgpack(message(name, **{field: value})), field
                except OverflowError:
                    continue  # one inside of meta
    for field in REQUIRED[name]:
        yield as_msgpack({key: value for key, value in message(name).items() if key != field}), field
    yield as_msgpack(message(name) | {"type": name.upper()}), "type"
    yield as_msgpack(message(name) | {"type": name.encode()}), "type"
    yield as_msgpack([message(name)]), "message"
    yield as_msgpack(message(name))[:-1], "message"
    yield as_msgpack(message(name)) + b"\xc0", "message"
    yield as_msgpack({key.encode(): value for key, value in message(name).items()}), "type"  # it has none
    yield as_msgpack(dict(enumerate(message(name).values()))), "message"
    yield as_msgpack(message(name) | {1: 2}), "message"


NO_COMMANDS: dict[str, list[Case]] = {
    "chat.v1.json": [
        (b"", "message"),
        (b" ", "message"),
        (b"null", "message"),
        (b"5", "message"),
        (b"-1e999", "message"),
        (b"1" * 5000, "message"),
        (b"NaN", "message"),
        (b'"ping"', "message"),
        (b'"\\ud800"', "message"),
        (b"[]", "message"),
        (b"{}", "type"),
        (b'{"type":null}', "type"),
        (b'{"type":"\\ud800"}', "type"),
        (b'{"type":"' + b"x" * 60_000 + b'"}', "type"),
        (b'{"type":"ping","type":"nope"}', "type"),
        (b'{"ping":', "message"),
        (b"{'type':'ping'}", "message"),
        (b"\xef\xbb\xbf{}", "message"),  # a byte order mark
        (b"[" * 1000 + b"]" * 1000, "message"),
        (b"[" * 60_000, "message"),
        (b'{"type":' * 8_000, "message"),
        (b'{"type":"send","room":"general","text":"' + b"[" * 60_000 + b'"}', "text"),
    ],
    "chat.v1.msgpack": [
        (b"", "message"),
        (b"\xc0", "message"),
        (b"\x05", "message"),
        (b"\xc1", "message"),  # never used
        (b"\xa4ping", "message"),
        (b"\xc4\x04ping", "message"),
        (b"\x90", "message"),
        (b"\x80", "type"),
        (b"\x81\xa4type\xc0", "type"),
        (b"\x81\xa4type\xa1\xff", "type"),
        (b"\x81\xa4type\xc4\x04ping", "type"),
        (b"\x81\xc4\x04type\xa4ping", "type"),
        (b"\x81\x01\x02", "message"),
        (b"\xdf\xff\xff\xff\xff", "message"),  # a map of 4 billion, it says
        (b"\xdd\xff\xff\xff\xff", "message"),
        (b"\xdb\xff\xff\xff\xff", "message"),
        (b"\xc6\xff\xff\xff\xff", "message"),
        (b"\x91" * 1000 + b"\xc0", "message"),
        (b"\x91" * 60_000, "message"),
        (b"\x81\xa4type" * 10_000, "message"),
        (b'{"type":"ping"}', "message"),
    ],
}


async def refuses(client: Client, cases: Sequence[Case]) -> None:
    """Each case is answered with one error that names its field, and the connection goes on."""
    binary = client.codec == "chat.v1.msgpack"
    for number, (payload, field) in enumerate(cases):
        await client.socket.write_message(payload, binary=binary)
        await client.send(type="ping", id=f"ping {number}")
        error = await client.receive()
        context = f"{payload[:200]!r} was answered with {error}"
        assert error is not None, f"{payload[:200]!r} closed the connection: {client.socket.close_code}"
        assert error["type"] == "error", context
        assert error["code"] == "bad_request", context
        assert error["message"].partition(":")[0] == field, context
        assert len(error["message"]) < 300, context
        assert await client.receive() == {"type": "pong", "id": f"ping {number}"}, context


@pytest.mark.parametrize("protocol", ["chat.v1.json", "chat.v1.msgpack"])
@pytest.mark.parametrize("name", FULL)
async def test_every_wrong_command_is_one_error_that_names_the_field(tmp_path: Path, name: str, protocol: str) -> None:
    async with running(tmp_path, text_chars=TEXT_CHARS) as here:
        client = await here.connect("/ws/general", protocols=[protocol])
        await client.until("synced")
        cases = list((json_cases if protocol == "chat.v1.json" else msgpack_cases)(name))
        assert len(cases) > 4
        await refuses(client, cases)
        history = await client.ask(type="history", room="general")
        assert history["messages"] == []
        assert history["more"] is False
        joined = await client.ask(type="join", room="general")
        assert (joined["head"], joined["read"]) == (0, 0)
        assert here.server.metrics.events == 0
        assert here.server.metrics.errors == {"bad_request": len(cases)}
        assert len(here.server.hub.rooms) == 1


@pytest.mark.parametrize("protocol", NO_COMMANDS)
async def test_what_is_no_command_at_all(tmp_path: Path, protocol: str) -> None:
    async with running(tmp_path, text_chars=TEXT_CHARS) as here:
        await refuses(await here.connect(protocols=[protocol]), NO_COMMANDS[protocol])


@pytest.mark.parametrize("protocol", ["chat.v1.json", "chat.v1.msgpack"])
async def test_bad_commands_between_good_ones_lose_nothing(tmp_path: Path, protocol: str) -> None:
    """In one stream, without waiting for an answer: each good one is acked once and in order."""
    async with running(tmp_path) as here:
        client = await here.connect("/ws/general", protocols=[protocol])
        binary = protocol == "chat.v1.msgpack"
        encode = as_msgpack if binary else as_json
        await client.until("synced")
        for number in range(200):
            await client.send(type="send", room="general", text="x", id=f"good {number}")
            for value in (DEEP, "\0", 5, None):
                await client.socket.write_message(
                    encode({"type": "send", "room": "general", "text": value}), binary=binary
                )
        acks: list[str] = []
        seqs: list[int] = []
        errors = 0
        while len(acks) < 200 or errors < 800 or len(seqs) < 200:
            got = await client.receive()
            match got["type"]:
                case "ack":
                    acks.append(got["id"])
                case "error":
                    errors += 1
                case "message":
                    seqs.append(got["seq"])
        assert acks == [f"good {number}" for number in range(200)]
        assert seqs == list(range(1, 201))
        assert await client.ask(type="ping", id="p") == {"type": "pong", "id": "p"}
