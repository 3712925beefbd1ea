"""`tornado-chat verify` must fail where a promise is broken, and name the room and the seq."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support import http_tampering, tampering
from tests.support.raw_websocket import client_frame
from tests.support.servers import UNLIMITED, Server
from tests.support.tampering import server_frame
from tornado_chat.verify.frames import BINARY, CLOSE, PING, TEXT
from tornado_chat.verify.options import Options
from tornado_chat.verify.run import verify

HARMLESS = Options(
    url=None,
    token=None,
    secret=None,
    workers=1,
    database="sqlite",
    redis=False,
    directory=None,
    seconds=2.0,
    clients=6,
    rooms=2,
    rate=100.0,
    transports=("websocket",),
    faults=(),
    patience=3.0,
    max_late=None,
    seed=1,
    json=True,
)


def options(url: str, **more: Any) -> Options:
    return replace(HARMLESS, url=url, **more)


async def tampered_with(
    folder: Path, capsys: pytest.CaptureFixture[str], made: Callable[[int], tampering.Tampering], **more: Any
) -> tuple[tampering.Message, Any]:
    """Verify a server through `made`, by its port; what was tampered with, and the report.

    What is rare may not be said at all in one run, so up to five are made.
    """
    with Server(folder, *UNLIMITED) as server:
        for seed in range(5):
            async with made(server.port) as proxy:
                code = await verify(options(f"http://127.0.0.1:{proxy.port}", seed=seed, **more))
            report = json.loads(capsys.readouterr().out)
            if proxy.at is not None:
                assert (code, report["ok"]) == (1, False)
                return proxy.at, report
    raise AssertionError("nothing was tampered with")


@pytest.mark.parametrize(
    ("tamper", "kinds"),
    [
        (tampering.drop, {"hole"}),
        (tampering.double, {"double"}),
        (tampering.swap, {"hole", "disorder"}),
        (tampering.alter, {"content"}),
        (tampering.miscount, {"content"}),
        (tampering.forge, {"double", "content", "ack"}),
        (tampering.renumber_ack, {"ack", "content"}),
        (tampering.lose_event, {"lost"}),
        (tampering.refuse, {"foreign"}),
        (tampering.stop_delivery, {"stuck", "hole"}),
        (tampering.withhold("history"), {"stuck"}),
        (tampering.withhold("presence"), {"stuck"}),
        (tampering.deny_presence, {"presence"}),
        (tampering.drop_own, {"hole"}),
        (tampering.ChangeOwn("mentioned", target=10**6), {"content", "mention"}),
        (tampering.ChangeOwn("marked", read=10**6), {"content", "mark"}),
        (tampering.FalsifyState(tampering.another_level), {"state"}),
        (tampering.FalsifyState(tampering.one_more_unread), {"state"}),
        (tampering.FalsifyState(tampering.an_older_mark), {"state"}),
        (tampering.mark_by_signal, {"mark"}),
        (tampering.alter_chunk, {"text"}),
        (tampering.shift_chunk, {"text"}),
        (tampering.alter_end, {"text", "content"}),
    ],
)
async def test_a_broken_promise_is_found(
    tamper: tampering.Tamper, kinds: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at, report = await tampered_with(tmp_path, capsys, lambda port: tampering.Tampering(port, tamper))
    found = [violation for violation in report["violations"] if violation["room"] == at["room"]]
    named = {violation["kind"] for violation in found if violation["seq"] == at["seq"]}
    assert named & kinds, report["violations"]
    assert all(violation["client"] for violation in found)


async def test_pages_that_are_false_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left: list[tampering.ChangePage] = [
        tampering.show_old_text,
        tampering.show_deleted,
        tampering.drop_reaction,
        tampering.leave_out,
        tampering.miscount_one,
        tampering.show_another,
    ]
    with Server(tmp_path, *UNLIMITED) as server:
        for seed in range(5):  # on a slow machine there may be too few pages in one run
            falsify = tampering.FalsifyHistory(*left)
            async with tampering.Tampering(server.port, falsify, everywhere=True) as proxy:
                code = await verify(options(f"http://127.0.0.1:{proxy.port}", rooms=6, seconds=4.0, seed=seed))
            violations = json.loads(capsys.readouterr().out)["violations"]
            assert code == (1 if violations else 0)
            found = {(one["room"], one["seq"]) for one in violations if one["kind"] == "history"}
            left = falsify.left
            for name, message in falsify.done.items():
                if (message["room"], message["seq"]) not in found:
                    assert name == "drop_reaction", name
                    left.append(tampering.drop_reaction)  # one that was given just then may be in the page or not
            if not left:
                break
    assert left == []


async def test_a_mark_that_was_forgotten_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coming_back = {"faults": ("reconnects",), "seconds": 5.0, "clients": 40}
    at, report = await tampered_with(
        tmp_path, capsys, lambda port: tampering.Tampering(port, tampering.forget_mark), **coming_back
    )
    assert ("mark", at["room"]) in {(one["kind"], one["room"]) for one in report["violations"]}


async def test_what_goes_on_after_left_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leaving = {"faults": ("leaves",), "seconds": 5.0, "clients": 40}
    at, report = await tampered_with(
        tmp_path, capsys, lambda port: tampering.Tampering(port, tampering.go_on_after_left), **leaving
    )
    assert ("left", at["room"], at["seq"]) in {(one["kind"], one["room"], one["seq"]) for one in report["violations"]}


EVENT = b'{"type":"synced","room":"r","seq":1}'
MALFORMED: dict[bytes, str] = {
    client_frame(TEXT, EVENT): "a frame from the server is masked",
    server_frame(TEXT, EVENT[:9], fin=False) + server_frame(0, EVENT[9:]): "a message in several frames",
    server_frame(TEXT, EVENT, rsv=4): "a frame with a reserved bit set",
    server_frame(3, EVENT): "a frame with the opcode 3",
    server_frame(BINARY, EVENT): "a frame with the opcode 2 on a connection that speaks chat.v1.json",
    server_frame(PING, b"x" * 126): "a control frame of more than 125 bytes",
    server_frame(TEXT, EVENT, length=b"\x7e\x00" + bytes([len(EVENT)])): "a length of",
    server_frame(CLOSE, b"\x03\xee"): "a close frame with the code 1006",
    server_frame(TEXT, b'{"type":"\xff"}'): "a message that is not JSON",
    server_frame(TEXT, b'{"type":"pong","id":"a","id":"b"}'): "an object that names a field twice",
    server_frame(TEXT, b'{"type":"news"}'): "a message of the type 'news'",
    server_frame(TEXT, b'{"type":"synced","room":"r"}'): "synced: the field seq is",
    server_frame(TEXT, EVENT): "a message that belongs to no room of ours",
}


async def test_what_is_not_the_protocols_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each once, on whatever connection is the next."""
    malform = tampering.Malform(MALFORMED)
    with Server(tmp_path, *UNLIMITED) as server:
        async with tampering.Tampering(server.port, malform, everywhere=True) as proxy:
            assert await verify(options(f"http://127.0.0.1:{proxy.port}", seconds=4.0)) == 1
    assert malform.frames == []
    found = [one["text"] for one in json.loads(capsys.readouterr().out)["violations"] if one["kind"] == "protocol"]
    for text in MALFORMED.values():
        assert any(one.startswith(text) for one in found), text


async def test_another_epoch_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        async with tampering.Tampering(server.port, tampering.change_epoch, begin_after=1) as proxy:
            assert await verify(options(f"http://127.0.0.1:{proxy.port}")) == 1
    report = json.loads(capsys.readouterr().out)
    assert "epoch" in {violation["kind"] for violation in report["violations"]}


async def test_the_proxy_itself_breaks_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        async with tampering.Tampering(server.port, lambda proxy, message: None) as proxy:
            assert await verify(options(f"http://127.0.0.1:{proxy.port}")) == 0
        assert json.loads(capsys.readouterr().out)["violations"] == []
        async with http_tampering.HTTPTampering(server.port, lambda proxy, message: None) as proxy:
            more: dict[str, Any] = {"transports": OVER_HTTP, "faults": ("changes", "cuts"), "seconds": 12.0}
            over_http = options(f"http://127.0.0.1:{proxy.port}", **more)
            assert await verify(over_http) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["violations"] == []
    assert report["counts"]["changes"] > 0


async def test_an_agent_that_is_broken_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tornado_chat.verify.replicas.AGENT", "tests.support.broken_agents:agent")
    monkeypatch.setattr("tornado_chat.verify.crowd.ASKING", 0.1)
    with Server(tmp_path, *UNLIMITED) as server:
        asked = options(server.url, secret=server.secret, agents=2, seconds=9.0, rate=300.0, clients=10, patience=1.0)
        assert await verify(asked) == 1
    report = json.loads(capsys.readouterr().out)
    kinds = {violation["kind"] for violation in report["violations"]}
    assert {"unanswered", "asked", "text", "twice", "open", "billed"} <= kinds, report


# What comes over HTTP.

OVER_HTTP = ("stream", "poll", "http")


@pytest.mark.parametrize(
    ("transport", "tamper", "kinds"),
    [
        ("stream", tampering.drop, {"hole"}),
        ("poll", tampering.drop, {"hole", "cursor"}),
        ("http", tampering.drop, {"hole", "cursor"}),
        ("stream", tampering.double, {"double"}),
        ("poll", tampering.double, {"double"}),
        ("http", tampering.double, {"double", "protocol"}),  # or the page has more events than was asked for
        ("stream", tampering.alter, {"content"}),
        ("poll", tampering.miscount, {"content"}),
        ("poll", tampering.stop_delivery, {"hole", "cursor"}),
        ("stream", tampering.stop_delivery, {"stuck", "hole"}),
        ("http", tampering.renumber_ack, {"ack", "content"}),
        ("http", tampering.lose_event, {"lost"}),
        ("http", tampering.refuse, {"foreign"}),
        ("http", tampering.withhold("history"), {"protocol"}),
        ("poll", tampering.drop_own, {"hole", "cursor"}),
        ("stream", tampering.FalsifyState(tampering.one_more_unread), {"state"}),
    ],
)
async def test_a_broken_promise_over_http_is_found(
    transport: str, tamper: tampering.Tamper, kinds: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at, report = await tampered_with(
        tmp_path, capsys, lambda port: http_tampering.HTTPTampering(port, tamper), transports=(transport,)
    )
    if "protocol" in kinds and report["violations"][0]["kind"] == "protocol":  # of the whole answer
        return
    found = [violation for violation in report["violations"] if violation["room"] == at["room"]]
    assert {one["kind"] for one in found if one["seq"] == at["seq"]} & kinds, report["violations"]


async def test_a_wrong_id_in_a_stream_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A browser would come back with it, and see an event twice or never."""
    one_room = {"transports": ("stream",), "rooms": 1}
    at, report = await tampered_with(
        tmp_path, capsys, lambda port: http_tampering.HTTPTampering(port, http_tampering.misnumber), **one_room
    )
    assert ("id", at["seq"]) in {(one["kind"], one["seq"]) for one in report["violations"]}


async def test_a_hole_after_a_change_of_kind_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changing = {"transports": OVER_HTTP, "faults": ("changes",), "clients": 40, "seconds": 5.0}
    at, report = await tampered_with(
        tmp_path, capsys, lambda port: http_tampering.HTTPTampering(port, http_tampering.Resumed()), **changing
    )
    assert ("hole", at["room"], at["seq"]) in {(one["kind"], one["room"], one["seq"]) for one in report["violations"]}
