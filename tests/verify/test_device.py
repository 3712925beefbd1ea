"""A device, as the server's messages find it: what it answers, and what it finds."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.support.chat import eventually
from tornado_chat.verify.address import ServerAddress
from tornado_chat.verify.codecs import JSON, Data
from tornado_chat.verify.device import Device
from tornado_chat.verify.endings import Broken, Ended
from tornado_chat.verify.handshake import Offer
from tornado_chat.verify.ledger import Ledger
from tornado_chat.verify.socket_transport import SocketTransport

NOWHERE = ServerAddress("127.0.0.1", 1, "/ws", False)
LIMITS = {"frame_bytes": 65536, "text_chars": 8000, "send_rate": 0, "send_burst": 0}
WELCOME: Data = {
    "type": "welcome",
    "user": "u",
    "name": "U",
    "device": "d",
    "epoch": "e",
    "server_time": 1,
    "limits": LIMITS,
    "ping_interval": 25,
}


class Socket(SocketTransport):
    """Remembers what was sent."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.sent: list[Data] = []

    def send(self, command: Data) -> None:
        self.sent.append(command)


def new(ledger: Ledger) -> Device:
    return Device("c1", ["r"], ledger, NOWHERE, kind="websocket", token=None, offer=Offer(JSON), dice=random.Random(1))


def device(ledger: Ledger) -> tuple[Device, Socket]:
    """In the room r."""
    made = new(ledger)
    socket = Socket(made)
    made.take(socket, WELCOME)
    made.take(socket, {"type": "joined", "room": "r", "head": 0, "cursor": 0, "read": 0, "epoch": "e"})
    made.take(socket, {"type": "synced", "room": "r", "seq": 0})
    return made, socket


def error(code: str, **more: Any) -> Data:
    return {"type": "error", "code": code, "message": "m", "retry_after": 0.001, **more}


async def test_what_was_not_kept_is_sent_again_although_another_device_was_told() -> None:
    ledger = Ledger(["r"])
    one, socket = device(ledger)
    one.commands.speak({"type": "send", "room": "r", "text": "x"})
    (sent,) = one.commands.unanswered.values()
    sent.seq = 1  # another device of the user has sent it too
    one.take(socket, error("unavailable", id=sent.id))
    await eventually(lambda: socket.sent.count(sent.command) == 2)
    one.take(socket, {"type": "ack", "id": sent.id, "room": "r", "seq": 1, "ts": 1, "duplicate": True})
    assert (one.commands.unanswered, ledger.violations) == ({}, [])


async def test_errors_that_a_device_may_be_given() -> None:
    """What is transient; and not_found, if in the end the message was deleted."""
    ledger = Ledger(["r"])
    one, socket = device(ledger)
    one.take(socket, error("rate_limited"))
    for code, command in (
        ("not_found", {"type": "react", "room": "r", "seq": 1, "emoji": "x", "on": True}),
        ("not_found", {"type": "delete", "room": "r", "seq": 2}),
        ("forbidden", {"type": "send", "room": "r", "text": "x"}),
    ):
        one.commands.speak(command)
        one.take(socket, error(code, id=socket.sent[-1]["id"]))
    one.take(socket, error("unavailable", id="other"))
    one.audit()
    assert [(found.kind, found.seq) for found in ledger.violations] == [
        ("error", 2),
        ("error", 0),
        ("error", 0),
        ("error", 1),
    ]
    ledger.records["r"].deleted.add(1)
    one.audit()
    assert len(ledger.violations) == 4


@pytest.mark.parametrize(
    "message", [{"type": "synced", "room": "other", "seq": 0}, {"type": "news"}, {"type": "synced", "room": "r"}]
)
async def test_what_is_not_for_this_device(message: Data) -> None:
    one, socket = device(Ledger(["r"]))
    with pytest.raises(Broken):
        one.take(socket, message)


async def test_nothing_comes_before_welcome() -> None:
    with pytest.raises(Broken, match="welcome"):
        (one := new(Ledger(["r"]))).take(Socket(one), {"type": "synced", "room": "r", "seq": 0})


def message(seq: int, **more: Any) -> Data:
    return {
        "type": "message",
        "room": "r",
        "seq": seq,
        "n": seq,
        "user": "u",
        "name": "U",
        "text": f"t{seq}",
        "ts": 1,
        **more,
    }


def page(*messages: Data, more: bool = False) -> Data:
    return {"type": "history", "id": "history r", "room": "r", "messages": list(messages), "more": more}


def ack(id: str, seq: int) -> Data:
    return {"type": "ack", "id": id, "room": "r", "seq": seq, "ts": 1}


def kinds(ledger: Ledger) -> list[tuple[str, int]]:
    return [(found.kind, found.seq) for found in ledger.violations]


async def test_a_page_is_judged_when_all_that_it_may_show_is_known() -> None:
    """Not before: an event that it shows may be on its way. An ack of a command that was sent later tells."""
    ledger = Ledger(["r"])
    one, socket = device(ledger)
    one.take(socket, message(1, id="x"))
    ledger.records["r"].acknowledge(1, {"type": "message", "room": "r", "user": "u", "id": "x", "text": "t1"}, 1.0)
    one.questions.ask_history("r", None, 10)
    assert socket.sent[-1] == {"type": "history", "id": "history r", "room": "r", "limit": 10}
    one.questions.ask_history("r", None, 10)
    assert socket.sent[-2]["type"] == "join", "one at a time"
    one.take(socket, page(message(1, id="x", edited=5, text="new"), message(3)))
    one.commands.speak({"type": "send", "room": "r", "text": "t4"})
    one.take(socket, ack("c1.1", 4))
    one.take(socket, {"type": "edited", "room": "r", "seq": 2, "target": 1, "user": "u", "text": "new", "ts": 5})
    one.take(socket, message(3, text="other"))
    assert kinds(ledger) == []
    one.take(socket, message(4, id="c1.1"))
    assert kinds(ledger) == [("history", 3)]
    assert ledger.counts["histories"] == 1


@pytest.mark.parametrize("answered_first", [True, False])
async def test_a_page_shows_what_was_sent_before_it_was_asked_for(answered_first: bool) -> None:
    ledger = Ledger(["r"])
    one, socket = device(ledger)
    for number in (1, 2):
        one.commands.speak({"type": "send", "room": "r", "text": f"t{number}"})
    one.questions.ask_history("r", None, 10)
    if answered_first:
        one.take(socket, page())
    one.take(socket, ack("c1.1", 1))
    one.take(socket, error("unavailable", id="c1.2"))  # it need not be there
    if not answered_first:
        one.take(socket, page())
    for seq in (1, 2):
        one.take(socket, message(seq, id=f"c1.{seq}"))
    one.audit()
    assert kinds(ledger) == [("history", 1)]


async def test_a_page_need_not_show_what_was_sent_before_it_and_waits_for_an_end() -> None:
    """The deletion of a message that grows."""
    ledger = Ledger(["r"])
    one, socket = device(ledger)
    one.take(socket, message(1))
    one.commands.speak({"type": "delete", "room": "r", "seq": 1})
    one.rooms["r"].late.add("c1.1")
    one.questions.ask_history("r", None, 10)
    one.take(socket, page(message(1)))
    one.take(socket, message(2))
    one.take(socket, ack("c1.1", 3))
    one.take(socket, {"type": "deleted", "room": "r", "seq": 3, "target": 1, "user": "u", "ts": 1})
    one.audit()
    assert ledger.violations == []


async def test_questions_are_asked_again_or_reported() -> None:
    ledger = Ledger(["r"])
    one, socket = device(ledger)
    one.questions.ask_history("r", 7, 10)
    one.questions.ask_presence("r")
    asked = socket.sent[-2:]
    for id in ("history r", "presence r"):
        one.take(socket, error("rate_limited", id=id))
        assert one.waits() is not None
    await eventually(lambda: len(socket.sent) == 5)
    assert sorted(map(str, socket.sent[-2:])) == sorted(map(str, asked))
    one.take(socket, page())
    one.take(socket, {"type": "presence", "id": "presence r", "room": "r", "count": 1, "users": [ME]})
    assert (one.waits(), kinds(ledger)) == (None, [])
    one.take(socket, page())
    one.take(socket, {"type": "presence", "id": "presence r", "room": "r", "count": 1, "users": [ME]})
    one.questions.ask_history("r", None, 10)
    one.take(socket, error("forbidden", id="history r"))
    assert [kind for kind, _ in kinds(ledger)] == ["protocol", "protocol", "error"]


ME = {"user": "u", "name": "U"}


@pytest.mark.parametrize(
    ("users", "wrong"),
    [([ME], False), ([], True), ([{"user": "v", "name": "V"}], True), ([ME, {"user": "w", "name": "W"}], True)],
)
async def test_whoever_asks_is_there_with_people_of_ours(users: list[Data], wrong: bool) -> None:
    ledger = Ledger(["r"])
    ledger.users["r"].add("v")
    one, socket = device(ledger)
    one.questions.ask_presence("r")
    answer = {"type": "presence", "id": "presence r", "room": "r", "count": len(users), "users": users}
    one.take(socket, answer)
    assert [kind for kind, _ in kinds(ledger)] == ["presence"] * wrong
    one.leave("r", 60.0)
    one.questions.ask_presence("r")
    one.take(socket, {"type": "left", "id": "leave r", "room": "r"})
    one.take(socket, answer | {"count": 0, "users": []})
    assert len(ledger.violations) == wrong


async def test_who_leaves_comes_back_where_it_was() -> None:
    ledger = Ledger(["r"])
    one, socket = device(ledger)
    one.take(socket, message(1))
    one.leave("r", 0.0)
    one.leave("r", 0.0)
    assert [command["type"] for command in socket.sent] == ["join", "leave"]
    one.take(socket, {"type": "left", "id": "leave r", "room": "r"})
    one.take(socket, message(2))
    await eventually(lambda: len(socket.sent) == 3)
    assert socket.sent[-1] == {"type": "join", "id": "join r", "room": "r", "after": 1}
    assert kinds(ledger) == [("left", 2)]


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        (Ended(1012, "retry_after_ms=5"), None),
        (Ended(1012), "protocol"),
        (Ended(1009), "error"),
        (Ended(1005), "error"),
        (Ended(1011, "x"), None),
        (Ended(1006), None),
    ],
)
async def test_ends_of_a_connection(end: Ended, kind: str | None) -> None:
    ledger = Ledger(["r"])
    new(ledger)._count_end(end)
    assert [found for found, _ in kinds(ledger)] == ([kind] if kind else [])
