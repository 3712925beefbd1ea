"""What is known of a message that grows, and how `verify` finds that it ended otherwise, or was shown otherwise."""

from __future__ import annotations

import asyncio
import random
import time
import zlib
from types import SimpleNamespace
from typing import Any

import pytest

from tests.verify.test_device import NOWHERE, WELCOME, Socket, error, kinds
from tornado_chat.verify.answers import Answers
from tornado_chat.verify.codecs import JSON, Data
from tornado_chat.verify.device import Device
from tornado_chat.verify.faults import Scene, roll, stop_growing
from tornado_chat.verify.growth import KEPT_SECONDS, LATE_SECONDS, LEASE_SECONDS, Growth, Span
from tornado_chat.verify.handshake import Offer
from tornado_chat.verify.ledger import Ledger
from tornado_chat.verify.tales import question, tale

TEXT = "to be or not to be, naïve 🦊"


def growth(said: int = len(TEXT)) -> Growth:
    made = Growth("r", "u", "c1.1", TEXT, asker=None, watched=True)
    made.seq, made.said = 7, said
    return made


def finished(reason: str = "done", length: int = len(TEXT), **more: Any) -> Data:
    event = {"type": "finished", "room": "r", "seq": 9, "target": 7, "user": "u", "ts": 1, "reason": reason}
    return event | {"length": length, "crc": zlib.crc32(TEXT[:length].encode())} | more


def audit(one: Growth, *breaks: float | Span, sound: bool = True) -> list[str]:
    spans = [(one, one) if isinstance(one, float) else one for one in breaks]
    return [finding.kind for finding in one.audit(spans, sound=sound)]


def ended(event: Data, **known: Any) -> Growth:
    one = growth()
    for name, value in known.items():
        setattr(one, name, value)
    assert list(one.take_end(event, 50.0)) == []
    return one


def test_parts_that_were_said_and_others() -> None:
    one = growth(said=10)
    assert [one.is_part(*part) for part in ((0, "to be"), (3, "be or"), (10, ""))] == [True] * 3
    assert [one.is_part(*part) for part in ((1, "to be"), (6, "or not"), (11, ""))] == [False] * 3


def test_an_end_that_its_author_has_said() -> None:
    one = ended(finished(), may_end={("done", len(TEXT))})
    assert audit(one) == []
    assert audit(ended(finished(length=3), finish=("done", 3))) == [], "cut by its author"
    assert audit(ended(finished(), finish=("done", 3))) == ["text"]
    assert audit(ended(finished("error"), may_end={("done", len(TEXT))})) == ["reason"]
    assert audit(ended(finished(length=5), may_end={("done", len(TEXT))})) == ["reason"]


@pytest.mark.parametrize("wrong", [{"crc": 1}, {"text": TEXT + "!"}, {"length": len(TEXT) + 1}, {"length": 3}])
def test_an_end_with_another_text(wrong: Data) -> None:
    assert [finding.kind for finding in growth().take_end(finished() | wrong, 1.0)] == ["text"]


def test_an_end_is_the_only_one() -> None:
    one = ended(finished(text=TEXT))
    assert list(one.take_end(finished(), 1.0)) == []
    assert [finding.kind for finding in one.take_end(finished(seq=10), 1.0)] == ["double"]
    erased = {key: value for key, value in finished().items() if key != "crc"} | {"deleted": True}
    assert list(one.take_end(erased, 1.0)) == []


def test_what_never_ends() -> None:
    assert audit(growth()) == ["open"]
    late = ended(finished("interrupted"), gone=True, gone_at=50.0 - LEASE_SECONDS - LATE_SECONDS - 1.0)
    assert audit(late) == ["open"]
    assert audit(late, sound=False) == []


def test_reasons_that_fit() -> None:
    assert audit(ended(finished("stopped"))) == ["reason"]
    assert audit(ended(finished("stopped"), stopped=True)) == []
    for seconds, found in ((LEASE_SECONDS + 1.0, []), (5.0, ["reason"])):
        one = growth()
        one.leave(10.0)
        list(one.take_end(finished("interrupted"), 10.0 + seconds))
        assert audit(one) == found
    one = growth()
    for second in range(10, 50, 5):
        one.leave(second)
        one.come_back(second + 4.0)
    list(one.take_end(finished("interrupted"), 60.0))
    assert audit(one) == ["reason"]
    one.watched = False
    assert audit(one) == []
    one.watched, one.gone = True, True
    assert audit(one) == []
    short = growth()  # for whom the log holds its author to be there longer
    short.leave(10.0)
    list(short.take_end(finished("interrupted"), 20.0))
    for workers_went, found in (
        ((0.0, 4.0), ["reason"]),
        ((0.0, 12.0), []),
        ((19.0, 60.0), []),
        ((21.0, 60.0), ["reason"]),
    ):
        assert audit(short, workers_went) == found


def test_how_much_must_be_kept() -> None:
    """What an answer has promised, always; what was shown, unless a process has died just then."""
    one = ended(finished("stopped", 5), stopped=True, kept=6)
    assert audit(one) == ["text"]
    one = ended(finished("stopped", 5), stopped=True)
    for then, length in ((1.0, 3), (20.0, 6), (21.0, 4)):
        one.show(length, then)
    assert audit(one) == ["text"]
    assert audit(one, 0.0 - KEPT_SECONDS) == ["text"], "that was before"
    assert audit(one, 22.0) == []
    assert audit(one, 21.0 + KEPT_SECONDS) == ["text"]
    assert audit(one, 21.0 + KEPT_SECONDS, sound=False) == []
    assert audit(one, (0.0 - KEPT_SECONDS, 22.0)) == [], "a roll, whose last worker went then"
    assert audit(one, (0.0 - KEPT_SECONDS, 22.0), sound=False) == []


# A device that reads it, and one that writes it.


def test_a_finish_cuts_the_text_also_where_it_was_not_answered() -> None:
    asked = {"kept": 10, "stopped": True, "may_end": {("done", 5), ("done", 20)}}
    assert audit(ended(finished("stopped", 5), **asked)) == []
    assert audit(ended(finished("stopped", 4), **asked)) == ["text"]
    assert audit(ended(finished("stopped", 5), **asked | {"may_end": set()})) == ["text"]


def device() -> tuple[Device, Socket, Ledger]:
    ledger = Ledger(["r"])
    made = Device("c1", ["r"], ledger, NOWHERE, kind="websocket", token=None, offer=Offer(JSON), dice=random.Random(1))
    socket = Socket(made)
    made.take(socket, WELCOME)
    made.take(socket, {"type": "joined", "room": "r", "head": 0, "cursor": 0, "read": 0, "epoch": "e"})
    made.take(socket, {"type": "synced", "room": "r", "seq": 0})
    return made, socket, ledger


def begun() -> tuple[Device, Socket, Ledger, Growth]:
    """Its first event is its own message, which grows."""
    made, socket, ledger = device()
    made.authoring.begin({"type": "begin", "room": "r"}, TEXT, None)
    made.authoring.turn(0.0, ending=False)
    (one,) = ledger.growing
    event = {"type": "message", "room": "r", "seq": 1, "n": 1, "user": "u", "name": "U", "text": "", "ts": 1}
    made.take(socket, event | {"id": one.id, "streaming": True})
    return made, socket, ledger, one


def chunk(offset: int, text: str, *, gen: int = 1, seq: int = 1) -> Data:
    return {"type": "appended", "room": "r", "chunks": [[seq, gen, offset, text]]}


def stream(offset: int, text: str, *, done: bool, **more: Any) -> Data:
    return {"type": "stream", "room": "r", "seq": 1, "gen": 1, "offset": offset, "text": text, "done": done, **more}


def end(length: int = len(TEXT), **more: Any) -> Data:
    return finished(length=length) | {"seq": 2, "target": 1} | more


async def test_a_reader_asks_for_what_it_lacks_and_is_content_with_the_whole() -> None:
    made, socket, ledger, one = begun()
    one.said = len(TEXT)
    made.take(socket, chunk(0, TEXT[:5]))
    made.take(socket, chunk(5, TEXT[5:9]))
    made.take(socket, chunk(12, TEXT[12:14]))
    made.take(socket, chunk(14, TEXT[14:15]))
    asked = {"type": "fetch", "id": "fetch r 1", "room": "r", "seq": 1, "offset": 9}
    assert [command for command in socket.sent if command["type"] == "fetch"] == [asked]
    assert made.reading.waits() == "r"
    made.take(socket, stream(9, TEXT[9:15], done=False, id="fetch r 1"))
    made.take(socket, chunk(15, TEXT[15:20]))
    assert made.reading.waits() is None
    made.take(socket, end())
    assert socket.sent[-1] == asked | {"offset": 20}
    made.take(socket, stream(20, TEXT[20:], done=True, id="fetch r 1"))
    assert (made.reading.waits(), kinds(ledger)) == (None, [])


async def test_a_reply_that_is_taken_over_begins_again() -> None:
    made, socket, ledger = device()
    ledger.answers = Answers("bot", ledger.grow)
    ledger.answers.ask("r", "ann", "q", "k1")
    told = "".join(tale("k1"))
    event = {"type": "message", "room": "r", "seq": 1, "n": 1, "user": "ann", "name": "Ann", "ts": 1}
    made.take(socket, event | {"id": "q", "text": question("k1")})
    reply = {"seq": 2, "n": 2, "user": "bot", "id": "re:1", "reply_to": 1, "agent": True, "streaming": True, "text": ""}
    made.take(socket, event | reply)
    made.take(socket, chunk(0, told[:5], seq=2))
    made.take(socket, chunk(0, told[:2], seq=2, gen=2))
    made.take(socket, chunk(5, told[5:6], seq=2))  # late, and of the one before
    assert made.reading.waits() is None
    made.take(socket, chunk(4, told[4:6], seq=2, gen=2))
    asked = {"type": "fetch", "id": "fetch r 2", "room": "r", "seq": 2, "offset": 2}
    assert [command for command in socket.sent if command["type"] == "fetch"] == [asked]
    assert kinds(ledger) == []
    made.take(socket, chunk(0, "x", seq=2, gen=3))
    assert dict(kinds(ledger)) == {"text": 2}


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (chunk(0, "x"), "text"),
        (chunk(1, TEXT[:3]), "text"),
        (chunk(0, TEXT[:9]), "text"),
        (chunk(0, TEXT[:3], gen=2), "text"),
        (chunk(0, TEXT[:3], seq=2), "text"),
        (stream(0, "x", done=False), "text"),
        (stream(0, TEXT[:3], done=False, id="fetch r 1"), "protocol"),
        (end(5, text="to b?"), "text"),
        (end(6), "text"),
        ({"type": "stop", "room": "r", "seq": 1, "by": "eve"}, "reason"),
        ({"type": "ack", "id": "stop r", "room": "r"}, "protocol"),
    ],
)
async def test_what_nobody_has_said_is_found(message: Data, kind: str) -> None:
    made, socket, ledger, one = begun()
    one.said = 5
    made.take(socket, message)
    assert kind in dict(kinds(ledger))


@pytest.mark.parametrize("wanted", [True, False])
async def test_an_order_to_stop_may_come_before_its_message(wanted: bool) -> None:
    made, socket, ledger, one = begun()
    record = ledger.records["r"]
    growth = record.growths.pop(1)
    made.take(socket, {"type": "stop", "room": "r", "seq": 1, "by": "eve"})
    assert kinds(ledger) == []
    record.growths[1] = growth
    one.stopped = wanted
    made.authoring.audit()
    assert kinds(ledger) == ([] if wanted else [("reason", 1)])


async def test_somebody_who_may_asks_that_it_stops() -> None:
    made, socket, ledger, one = begun()
    crowd: Any = SimpleNamespace(devices=[made], ledger=ledger)
    scene = Scene(crowd, None, None, random.Random(1), 1.0, asyncio.Event())
    for _ in range(20):
        await stop_growing(scene)
    (asked,) = (command for command in socket.sent if command["type"] == "stop")  # one at a time
    assert (asked["room"], asked.get("seq", 1), one.stopped) == ("r", 1, True)
    made.take(socket, {"type": "ack", "id": asked["id"], "room": "r"})
    assert (ledger.counts["stops"], kinds(ledger)) == (1, [])


async def test_a_roll_lasts_until_its_last_worker_has_gone() -> None:
    ledger = Ledger(["r"])
    crowd: Any = SimpleNamespace(devices=[], ledger=ledger)
    gone = asyncio.Event()
    installation: Any = SimpleNamespace(roll=gone.wait)
    rolling = asyncio.create_task(roll(Scene(crowd, installation, None, random.Random(1), 1.0, asyncio.Event())))
    await asyncio.sleep(0.01)
    then = time.monotonic()
    gone.set()
    await rolling
    ((began, ended),) = ledger.breaks
    assert began < then <= ended


async def test_who_catches_up_is_told_the_text_with_the_end() -> None:
    made, socket, ledger, one = begun()
    one.said = len(TEXT)
    made.take(socket, {"type": "behind", "room": "r", "seq": 1, "head": 2})
    made.take(socket, end())
    assert kinds(ledger) == [("text", 2)]


async def test_an_author_goes_on_where_the_server_is() -> None:
    made, socket, ledger, one = begun()
    ack = {"type": "ack", "id": one.id, "room": "r", "seq": 1, "ts": 1, "gen": 1, "length": 0}
    made.take(socket, ack)
    for second in range(1, 100):
        made.authoring.turn(float(second), ending=False)
    said = [command for command in socket.sent if command["type"] == "append"]
    assert "".join(command["text"] for command in said) == TEXT
    assert [command["offset"] for command in said[1:]] == [one["offset"] + len(one["text"]) for one in said[:-1]]
    finish = socket.sent[-1]
    assert (finish["type"], finish["stream"], finish["length"] <= len(TEXT)) == ("finish", one.id, True)
    conflict = error("conflict", id=finish["id"], room="r", stream=one.id, gen=1, length=4)
    made.take(socket, conflict)
    made.authoring.turn(200.0, ending=True)
    assert [command["type"] for command in socket.sent[-2:]] == ["append", "finish"]
    assert socket.sent[-2]["offset"] == 4
    assert socket.sent[-1]["id"] != finish["id"]
    made.take(socket, {"type": "ack", "id": socket.sent[-1]["id"], "room": "r", "seq": 2, "ts": 1})
    made.take(socket, end(socket.sent[-1]["length"], reason=socket.sent[-1]["reason"]) | finished_meta(socket))
    made.authoring.turn(300.0, ending=True)
    assert (made.authoring.open, kinds(ledger), audit(one)) == (0, [], [])


def finished_meta(socket: Socket) -> Data:
    return {"meta": socket.sent[-1]["meta"]} if "meta" in socket.sent[-1] else {}


@pytest.mark.parametrize("wrong", [{"length": None}, {"length": 99}, {"gen": 2}, {"held": True}])
async def test_a_begin_that_is_acknowledged_falsely(wrong: Data) -> None:
    made, socket, ledger, one = begun()
    made.take(socket, {"type": "ack", "id": one.id, "room": "r", "seq": 1, "ts": 1, "gen": 1, "length": 0} | wrong)
    assert {kind for kind, _ in kinds(ledger)} <= {"ack", "text"}
    assert kinds(ledger) != []


async def test_an_author_that_dies_says_nothing_any_more() -> None:
    made, socket, ledger, one = begun()
    made.die_writing()
    assert (one.gone, made.authoring.open, made.commands.unanswered) == (True, 0, {})
    made.take(socket, end(one.said, reason="interrupted"))
    assert kinds(ledger) == []
    assert audit(one) == []
