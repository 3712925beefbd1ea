"""docs/protocol.md against the code: what its tables list, its bounds, its example."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import fields
from tornado.routing import PathMatches

from tests.support import ROOT
from tornado_chat.auth import GUEST_TTL, _Claims
from tornado_chat.config import Settings
from tornado_chat.errors import ChatError, CloseCode, ErrorCode
from tornado_chat.live.pages import MOST_BYTES
from tornado_chat.live.polls import MOST_EVENTS
from tornado_chat.live.questions import HISTORY_BYTES, PRESENT_USERS
from tornado_chat.live.request import CARRY_OUT_SECONDS, OWED_SECONDS, REQUEST_BYTES
from tornado_chat.live.session import ROOMS
from tornado_chat.live.stays import LINGER_SECONDS
from tornado_chat.live.watch import LONGEST_SECONDS
from tornado_chat.log import Entry, event_of
from tornado_chat.log.kinds import AGENT, KINDS
from tornado_chat.metrics import Metrics
from tornado_chat.web import commands, poll, stream
from tornado_chat.web.app import Front
from tornado_chat.web.exchange import MAX_BODY_BYTES
from tornado_chat.web.fragments import LAST
from tornado_chat.web.gate import PATH, Gate
from tornado_chat.web.refusals import STATUS
from tornado_chat.web.sessions import MAX_COOKIE_BYTES
from tornado_chat.web.shedding import WAIT_SECONDS
from tornado_chat.wire.codec import JSON
from tornado_chat.wire.commands import COMMANDS, COMMANDS_MAX, HISTORY_DEFAULT, SEQ_MAX, describe, parse
from tornado_chat.wire.encodings import SUBPROTOCOLS
from tornado_chat.wire.events import OWN_TYPES
from tornado_chat.wire.fragments import CLEAR, HTML
from tornado_chat.wire.handshake import check
from tornado_chat.wire.refusals import RequestError
from tornado_chat.wire.replies import REPLIES, Appended, Closing

DOC = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
TEXT_CHARS = 8_000
FRONT = Front(cast(Gate, SimpleNamespace(settings=Settings())), Metrics(), list, list)

EVERYTHING: dict[str, Any] = {"key": "k", "id": "i", "target": 1, "emoji": "e", "on": True}
MESSAGE_ONLY: dict[str, Any] = {"reply_to": 1, "meta": b'{"a":1}', "mentions": ("x",)}
AGENTS: dict[str, Any] = MESSAGE_ONLY | {"emoji": AGENT}

OF_REQUESTS = {ErrorCode.NOT_FOUND, ErrorCode.CONFLICT, ErrorCode.TOO_LARGE, ErrorCode.UNAVAILABLE}
"""What no handshake is refused with."""


def table(heading: str) -> list[list[str]]:
    """The cells of the first table after `heading`, without its head."""
    _, found, rest = DOC.partition(f"\n{heading}\n")
    assert found, heading
    rows = re.search(r"(?:^\|.*\n)+", rest, re.MULTILINE)
    assert rows, heading
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[0].splitlines()[2:]]


def names(cell: str) -> dict[str, bool]:
    """The names in a cell, and whether each must be there."""
    return {name: not optional for name, optional in re.findall(r"`(\w+)`(\??)", cell)}


def tables_of_server_types() -> dict[str, dict[str, bool]]:
    rows = [row for heading in ("### Events", "### Answers and notices", "### Signals") for row in table(heading)]
    assert len({row[0] for row in rows}) == len(rows)
    return {row[0].strip("`"): names(row[1]) for row in rows}


def example() -> list[tuple[str, dict[str, Any]]]:
    """(C or S, the object) for each line of the exchange."""
    lines = re.findall(r"^([CS])> (.*)$", DOC, re.MULTILINE)
    return [(who, json.loads(line)) for who, line in lines]


def test_the_commands_and_their_fields() -> None:
    documented = {row[0].strip("`"): names(row[1]) for row in table("## Commands")}
    assert documented == {
        name: {field.encode_name: field.required for field in fields(struct) if field.name != "id"}
        for name, struct in COMMANDS.items()
    }


def test_what_each_field_must_be() -> None:
    documented = {row[0]: row[1] for row in table("## Messages on the wire")}
    used = set()
    for name, struct in COMMANDS.items():
        for field in fields(struct):
            key = f"`{field.encode_name}` (of `{name}`)"
            key = key if key in documented else f"`{field.encode_name}`"
            assert documented[key] == describe(field.type, TEXT_CHARS), (name, field.name)
            used.add(key)
    assert used == set(documented)


def test_the_bounds_in_the_text() -> None:
    assert f"`limit` ({HISTORY_DEFAULT} without it)" in DOC
    assert SEQ_MAX == 2**63 - 1
    for text in (
        f"`limit` ({HISTORY_DEFAULT} without it)",
        "A seq is at most 2^63 - 1.",
        f"in up to {ROOMS:,} rooms",
        f"rooms on one connection than {ROOMS:,}",
        f"up to {PRESENT_USERS} of them",
        f"at most about {HISTORY_BYTES // 1024**2} MiB",
        f"good for {GUEST_TTL / 86400:.0f} days",
    ):
        assert text in DOC


def test_the_sub_protocols() -> None:
    assert [row[0].strip("`") for row in table("### Sub-protocols")] == list(SUBPROTOCOLS)


def test_the_addresses() -> None:
    assert [row[0].strip("`") for row in table("## Connecting")] == [PATH, PATH + "/{room}"]


def test_the_addresses_of_streams() -> None:
    asked = [re.findall(r"`(GET|POST) ([^?` ]+)", row[0])[0] for row in table("## Streams")]
    assert asked == [(endpoint.method, endpoint.path) for endpoint in stream.endpoints()]


def test_the_fragments() -> None:
    about = {"target": 41, "user": "ann", "ts": 1}
    made = [
        HTML.encode({"type": "message", "seq": 41, "user": "ann", "name": "Ann", "text": "x", "ts": 1}),
        HTML.encode({"type": "edited", "seq": 42, "text": "y", **about}),
        HTML.encode(Appended(room="r", chunks=[(41, 1, 5, "more")])),
        CLEAR,
        HTML.encode(Closing(code=4001, reason="token expired")),
    ]
    told = [re.findall(r"`(.*?)>?`", row[1]) for row in table("### Fragments of HTML")]
    assert all(part in found.decode() for parts, found in zip(told, made, strict=True) for part in parts), told
    assert f"`?last=` ({LAST} without it)" in DOC


def test_pages_and_polls() -> None:
    asked = table("## Pages and long polls")
    endpoints = poll.endpoints()
    found = [re.findall(r"`(GET|POST) ([^?` ]+)", row[0])[0] for row in asked]
    assert found == [(endpoint.method, endpoint.path) for endpoint in endpoints]
    for row, endpoint in zip(asked, endpoints, strict=True):
        assert names(row[1]) == {field.name: field.required for field in fields(endpoint.answers[200])}
    wanted = {}
    for struct in (endpoint.asks for endpoint in endpoints):
        assert struct is not None
        for field in fields(struct):
            if field.name != "room":
                default = "`bad_request`" if field.required else str(field.default).lower()
                wanted[f"`{field.name}`"] = [describe(field.type), default]
    assert {row[0]: row[1:] for row in table("### What a page or a poll asks for")} == wanted


def test_the_bounds_of_polls() -> None:
    for text in (
        f"has {MOST_EVENTS} events at most, and about {MOST_BYTES // 1024} KiB",
        f"for {LINGER_SECONDS:g} s after its answer",
        f"up to {LONGEST_SECONDS:g} s later the more",
    ):
        assert text in DOC


def test_the_claims_of_a_token() -> None:
    claims = {field.name: field.required for field in fields(_Claims)}
    assert {row[0].strip("`"): row[1] == "required" for row in table("### Who you are")} | {"aud": False} == claims


def test_the_statuses_of_a_refused_handshake() -> None:
    refused = {int(status) for code, status in STATUS.items() if code not in OF_REQUESTS}
    sound = {"host": "h", "upgrade": "websocket", "connection": "Upgrade", "sec-websocket-version": "13"}
    for headers in ({}, sound, sound | {"sec-websocket-version": "12"}):
        with pytest.raises(RequestError) as caught:
            check("GET", "HTTP/1.1", headers)
        refused.add(caught.value.status)
    assert [int(row[0]) for row in table("### A refused handshake")] == sorted(refused)


def test_the_requests_over_http() -> None:
    requests = {path for row in table("## HTTP") for path in re.findall(r"`GET (\S+)`", row[0])}
    matchers = [rule.matcher for rule in FRONT.app.wildcard_router.rules]
    routes = {
        matcher.regex.pattern.rstrip("$").removesuffix("()") or "/"
        for matcher in matchers
        if isinstance(matcher, PathMatches)
    }
    pages = {"/", r"/agent/[^/]+", r"/static/([\w./-]+)"}
    assert pages < routes
    assert requests == {"/", "/agent/{user}", PATH, PATH + "/{room}"} | (routes - pages)


def test_each_endpoint_is_told_and_what_its_answers_are() -> None:
    for endpoint in FRONT.api.endpoints:
        assert f"`{endpoint.method} {endpoint.path}" in DOC, endpoint.path
    documented = {row[0].strip("`"): row for row in table("### One command at its address")}
    declared = {f"{endpoint.method} {endpoint.path}": endpoint for endpoint in commands.ENDPOINTS[1:]}
    assert documented.keys() == declared.keys()
    for request, (_, command, answer) in documented.items():
        endpoint = declared[request]
        assert re.findall(r"\b(20\d)\b", answer) == [str(status) for status in endpoint.answers]
        asks = endpoint.asks
        assert asks is not None
        if command:
            assert re.findall(r"`(\w+)`", command)[0] == asks.__name__.lower()
            for name, value in endpoint.fixed.items():
                assert f"`{name}: {str(value).lower()}`" in command
            assert set(re.findall(r"`\?(\w+)=`", command)) == set(endpoint.in_query) - {"id"}
        for fields_of in re.findall(r"`\{(.*?)\}`", answer):
            told = {name: not optional for name, optional in re.findall(r'"(\w+)"(\??)', fields_of)}
            for type_ in endpoint.answers.values():
                assert told == {field.encode_name: field.required for field in fields(type_)}


def test_the_bounds_of_requests() -> None:
    for text in (
        f"JSON in UTF-8 of {MAX_BODY_BYTES // 1024**2} MiB at most",
        f"answered within {CARRY_OUT_SECONDS:.0f} s",
        f"and {REQUEST_BYTES:,} bytes for each request",
        f"after {OWED_SECONDS:.0f} s at most",
        f"begin within {WAIT_SECONDS:.0f} s",
        f"an array of up to {COMMANDS_MAX}",
        f"({MAX_COOKIE_BYTES:,} bytes)",
    ):
        assert text in DOC, text


def test_no_table_is_left_out() -> None:
    compared = re.findall(r'table\("(#+ .*?)"\)', Path(__file__).read_text(encoding="utf-8"))
    compared += ["### Answers and notices", "### Signals"]
    heads = re.split(r"^(#+ .*)\n", DOC, flags=re.MULTILINE)
    with_tables = [heading for heading, text in zip(heads[1::2], heads[2::2], strict=True) if "|---|" in text]
    assert set(with_tables) == set(compared)
    assert DOC.count("|---|\n") == len(with_tables)


def test_the_error_codes() -> None:
    assert [row[0].strip("`") for row in table("## Errors")] == [code.value for code in ErrorCode]
    told = {row[0].strip("`"): int(row[1].partition(",")[0]) for row in table("## Errors")}
    assert told == {code.value: status for code, status in STATUS.items()}


def test_the_close_codes() -> None:
    assert [int(row[0]) for row in table("## Close codes")] == [code.value for code in CloseCode]


@pytest.mark.parametrize("type", list(KINDS))
def test_the_events(type: Any) -> None:
    more = AGENTS if type == "message" else MESSAGE_ONLY if type == "finished" else {}
    least: dict[str, Any] = {"target": 1, "emoji": "e", "on": True if type == "reacted" else None}
    made = [
        event_of(entry, 2, 1, 1).data
        for entry in (
            Entry(type, "r", "u", "n", text="t", **EVERYTHING | more),
            Entry(type, "r", "u", "n", **EVERYTHING | more),
            Entry(type, "r", "u", "n", text="t", **least),
            Entry(type, "~u" if type in OWN_TYPES else "r", "u", "n", **least),
        )
    ]
    keys = [set(data) - {"type"} for data in made]
    assert tables_of_server_types()[type] == {key: all(key in some for some in keys) for key in set().union(*keys)}


def test_the_answers_notices_and_signals() -> None:
    documented = {type: list(row.items()) for type, row in tables_of_server_types().items() if type not in KINDS}
    assert documented == {
        type: [(field.name, field.required) for field in fields(struct)] for type, struct in REPLIES.items()
    }


def test_the_kinds_of_events() -> None:
    assert [row[0].strip("`") for row in table("### Events")] == list(KINDS)


def test_every_event_has_its_row_in_order_of_the_object() -> None:
    order = list(tables_of_server_types()["message"])
    data = event_of(Entry("message", "r", "u", "n", text="t", **EVERYTHING | AGENTS), 2, 1, 1).data
    assert list(data)[1:] == [name for name in order if name != "deleted"]


def test_the_example_is_valid() -> None:
    types = tables_of_server_types()
    exchange = example()
    assert len(exchange) > 20
    for who, data in exchange:
        if who == "C":
            parse(data, TEXT_CHARS) if data["room"] != "Not A Room" else None
        else:
            given = set(data) - {"type"}
            known = types[data["type"]]
            assert given <= set(known), data
            assert {name for name, required in known.items() if required} <= given, data
            assert JSON.decode(JSON.encode(data)) == data


def test_the_error_of_the_example_is_the_one_that_the_server_gives() -> None:
    exchange = example()
    (command,) = (data for _, data in exchange if data.get("room") == "Not A Room")
    (error,) = (data for _, data in exchange if data["type"] == "error")
    with pytest.raises(ChatError) as caught:
        parse(command, TEXT_CHARS)
    assert (error["code"], error["message"], error["id"]) == (caught.value.code, caught.value.message, command["id"])


def test_the_events_of_the_example_are_in_order_and_come_once() -> None:
    seqs = [data["seq"] for _, data in example() if data["type"] in KINDS]
    assert seqs == list(range(40, 46))


def test_every_link_leads_to_a_heading() -> None:
    headings = {
        re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", DOC, re.MULTILINE)
    }
    for link in re.findall(r"\]\(#([^)]*)\)", DOC):
        assert link in headings


def test_every_type_that_the_text_names_is_documented() -> None:
    known = {*tables_of_server_types(), *COMMANDS}
    for name in re.findall(r"^- \*\*`(\w+)`\*\*", DOC, re.MULTILINE):
        assert name in known
