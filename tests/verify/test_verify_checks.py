"""The checks of `tornado-chat verify` as pure functions, and its own reading of the wire."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.chat import eventually
from tornado_chat.verify.checks import MISSING_KEPT, SEQ_LEAP, Finding, Record, Witness, malformed, promised
from tornado_chat.verify.device import Device
from tornado_chat.verify.ledger import VIOLATIONS_KEPT, Ledger, Times
from tornado_chat.verify.websocket import Broken, ServerAddress, ServerFrames, WebSocket, client_frame
from tornado_chat.wire.codec import JSON
from tornado_chat.wire.encodings import websocket
from tornado_chat.wire.events import Data
from tornado_chat.wire.frames import PING, TEXT, FrameReader

# One client's view.


def joined(after: int = 0) -> Witness:
    witness = Witness()
    witness.ask(after)
    assert witness.take_joined(after) is None
    return witness


def kinds(findings: list[Finding | None]) -> list[str]:
    return [found.kind for found in findings if found is not None]


@given(st.lists(st.integers(0, 20), min_size=1, max_size=20))
def test_a_witness_is_content_with_what_the_protocol_allows(steps: list[int]) -> None:
    """Runs of events, with a new connection or another join from an older cursor between them."""
    witness, head = joined(), 0
    for step in steps:
        for seq in range(witness.cursor + 1, witness.cursor + step + 1):
            assert witness.take_event(seq) is None
        head = max(head, witness.cursor)
        assert witness.synced or witness.take_synced(witness.cursor) is None
        after = max(0, witness.cursor - step)
        if step % 2:
            witness.open()
        witness.ask(after)
        assert witness.take_joined(after) is None


@given(st.integers(2, 50), st.data())
def test_a_witness_finds_what_is_dropped_doubled_or_swapped(count: int, data: st.DataObject) -> None:
    at = data.draw(st.integers(1, count - 1))  # the last one missing is not for a witness to find
    whole = list(range(1, count + 1))
    for harm, seqs, expected in (
        ("dropped", [seq for seq in whole if seq != at], [("hole", at)]),
        ("doubled", [*whole[:at], at, *whole[at:]], [("double", at)]),
        ("swapped", [*whole[: at - 1], at + 1, at, *whole[at + 1 :]], [("hole", at), ("disorder", at)]),
    ):
        witness = joined()
        found = [(finding.kind, finding.seq or seq) for seq in seqs if (finding := witness.take_event(seq)) is not None]
        assert found == expected, harm


def test_a_witness_and_the_order_of_the_protocol() -> None:
    witness = Witness()
    assert (
        kinds([witness.take_event(1), witness.take_synced(0), witness.take_behind(), witness.take_signal()])
        == ["protocol"] * 4
    )
    assert kinds([witness.take_joined(0)]) == ["protocol"]
    witness.ask(5)
    assert kinds([witness.take_joined(4)]) == ["lost"]
    assert kinds([witness.take_signal(), witness.take_synced(5)]) == ["protocol", "hole"]
    assert kinds([witness.take_synced(4)]) == ["protocol"]
    assert kinds([witness.take_behind(), witness.take_signal(), witness.take_synced(4)]) == ["protocol"]


def test_what_a_witness_remembers_of_a_hole_is_bounded() -> None:
    witness = joined()
    for seq in range(10**6, 10**7, 10**6):
        assert kinds([witness.take_event(seq)]) == ["hole"]
    assert len(witness.missing) == MISSING_KEPT


@given(st.permutations(range(6)))
def test_acks_come_in_the_order_of_the_commands(order: list[int]) -> None:
    witness = joined()
    witness.pending.extend(str(number) for number in range(6))
    findings = kinds([witness.take_ack(str(number), seq, False) for seq, number in enumerate(order, 1)])
    assert bool(findings) is (order != list(range(6)))
    assert kinds([witness.take_ack("0", 7, False), witness.take_error("0")]) == ["ack", "ack"]


def test_an_error_overtakes_acks_and_a_fresh_ack_ascends() -> None:
    witness = joined()
    witness.pending.extend("abcd")
    assert kinds([witness.take_error("b"), witness.take_ack("a", 5, False), witness.take_ack("c", 2, True)]) == []
    assert kinds([witness.take_ack("d", 5, False)]) == ["ack"]


# What all clients know together.


def event(seq: int, command: Data, user: str = "u") -> Data:
    outer = {"seq": seq, "ts": 1000 + seq} | ({"name": "U"} if command["type"] == "send" else {})
    return promised({"room": "r", **command}, user) | outer


def send(number: int, **more: Any) -> Data:
    return {"type": "send", "id": f"c.{number}", "text": f"text {number}", **more}


COMMANDS: list[Data] = [
    send(1),
    send(2, reply_to=1, meta={"a": [1, None]}),
    {"type": "edit", "id": "c.3", "seq": 1, "text": "better"},
    {"type": "react", "id": "c.4", "seq": 2, "emoji": "x", "on": True},
    {"type": "delete", "id": "c.5", "seq": 1},
    send(6),
]
LOG = [event(seq, command) for seq, command in enumerate(COMMANDS, 1)]


def erased(event: Data) -> Data:
    return {key: value for key, value in event.items() if key not in ("text", "meta")} | {"deleted": True}


def heard(log: list[Data], *, acked: list[Data] = LOG) -> tuple[Record, list[Finding]]:
    """What two clients are shown of `log`, the second late and with erased texts, and what the sender was told."""
    record, found = Record("r"), []
    for one in log:
        found.append(record.see(one, "c1", 1.0)[0])
    for one in acked:
        found.append(record.acknowledge(one["seq"], promised({"room": "r", **COMMANDS[LOG.index(one)]}, "u"), 2.0))
    for one in log:
        gone = one["type"] in ("message", "edited") and one.get("target", one["seq"]) == 1
        finding, late = record.see(erased(one) if gone else one, "c2", 3.0)
        assert late == 2.0
        found.append(finding)
    return record, [finding for finding in found if finding is not None]


def audit(record: Record, head: int, unanswered: tuple[int, ...] = ()) -> list[tuple[int, str]]:
    return [(seq, finding.kind) for seq, finding in record.audit(head, unanswered)]


def test_a_record_of_a_sound_room() -> None:
    record, found = heard(LOG)
    assert (found, audit(record, len(LOG))) == ([], [])
    assert all(malformed(one) is None for one in LOG)


@pytest.mark.parametrize("field", ["text", "user", "ts", "name", "id", "reply_to", "meta", "type"])
def test_all_clients_are_shown_the_same(field: str) -> None:
    record, _ = heard(LOG)
    changed = LOG[1] | {field: {"text": "other", "meta": {"a": 2}, "ts": 7, "reply_to": 9}.get(field, "z")}
    finding, _ = record.see(changed, "c3", 4.0)
    assert finding is not None
    assert finding.kind == "content"


def test_what_is_in_the_log_is_what_was_sent() -> None:
    for index, one in enumerate(LOG):
        for field in ("text", "meta", "id", "emoji", "target", "user"):
            if field in one:
                changed = one | {field: 3 if field == "target" else {} if field == "meta" else "changed"}
                _, found = heard([*LOG[:index], changed, *LOG[index + 1 :]])
                assert {finding.kind for finding in found} <= {"ack", "content"}
                assert found, (index, field)


def test_what_was_acknowledged_is_in_the_log() -> None:
    record, _ = heard(LOG[:5])
    assert audit(record, 5) == [(6, "lost")]
    record, _ = heard(LOG, acked=[])
    assert audit(record, 5)[-1] == (6, "lost"), "shown, then gone"


def test_the_log_holds_only_what_was_sent_and_each_once() -> None:
    record, found = heard([*LOG, LOG[5] | {"seq": 7}])
    assert (found, audit(record, 7)) == ([], [(7, "foreign")])
    record, found = heard(LOG, acked=LOG[:5])
    assert audit(record, 6) == [(6, "foreign")]


def test_one_seq_is_acknowledged_for_one_command() -> None:
    record, _ = heard(LOG)
    ours = promised({"room": "r", **COMMANDS[5]}, "u")
    assert record.acknowledge(6, ours, 4.0) is None, "a resend"
    for seq, other in ((2, ours), (6, ours | {"text": "z"}), (6, ours | {"id": "c.7"})):
        finding = record.acknowledge(seq, other, 4.0)
        assert finding is not None
        assert finding.kind == "ack"


def test_texts_are_erased_by_deletions_only() -> None:
    record, _ = heard(LOG)
    assert record.see(erased(LOG[5]), "c3", 4.0)[0] is None, "its deletion may come yet"
    assert audit(record, 6) == [(6, "erased")]
    assert record.survives(LOG[5]) is None
    assert record.survives(erased(LOG[0])) is None
    for one in (LOG[0], LOG[2]):
        finding = record.survives(one)
        assert finding is not None
        assert finding.kind == "erased"


@pytest.mark.parametrize("seq", [0, -1, SEQ_LEAP + 1])
def test_an_absurd_seq_takes_no_memory(seq: int) -> None:
    record = Record("r")
    finding = record.acknowledge(seq, LOG[0], 1.0)
    assert finding is not None
    assert record.head == 0


def test_violations_are_bounded_and_times_are_counted() -> None:
    ledger = Ledger(["r"])
    for seq in range(VIOLATIONS_KEPT + 5):
        ledger.report(Finding("hole", "x"), room="r", seq=seq, client="c1")
    assert (len(ledger.violations), ledger.violation_count) == (VIOLATIONS_KEPT, VIOLATIONS_KEPT + 5)
    assert "room=r seq=1 client=c1 x" in str(ledger.violations[1])
    times = Times()
    assert times.summary() == {"p50": 0.0, "p99": 0.0, "max": 0.0}
    for milliseconds in range(100):
        times.add(milliseconds / 1000 + 0.0001)
    assert times.summary() == {"p50": 49.0, "p99": 98.0, "max": 99.1}


# The wire.


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ({}, "the type None"),
        ({"type": "news"}, "the type 'news'"),
        ({"type": []}, "the type \\[\\]"),
        ({"type": "synced", "room": "r"}, "seq is None"),
        ({"type": "synced", "room": "r", "seq": True}, "seq is True"),
        (LOG[0] | {"seq": 0}, "seq is 0"),
        (LOG[0] | {"text": None}, "deleted, with a text|neither"),
        (LOG[0] | {"deleted": True}, "deleted, with a text"),
        ({"type": "error", "code": 5, "message": ""}, "code is 5"),
    ],
)
def test_messages_that_are_not_the_protocols(message: Data, why: str) -> None:
    assert re.search(why, malformed(message) or "")


@given(
    st.lists(
        st.tuples(st.sampled_from([0, 9, 15]), st.sampled_from([0, 1, 125, 126, 300, 65_535, 70_000])), max_size=5
    ),
    st.data(),
)
def test_frames_of_a_server_in_any_pieces(sizes: list[tuple[int, int]], data: st.DataObject) -> None:
    objects = [{"text": "a" * size} for _, size in sizes]
    whole = b"".join(websocket(JSON, bits).frame(one) for (bits, _), one in zip(sizes, objects, strict=True))
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=8).map(sorted))
    reader, got = ServerFrames(True), []
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        got += reader.feed(whole[start:end])
    assert [JSON.decode(payload) for _, payload in got] == objects


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x81\x80\0\0\0\0", "masked"),
        (b"\x01\x01a", "several frames"),
        (b"\x83\x01a", "opcode 3"),
        (b"\x91\x01a", "reserved"),
        (b"\xc1\x01a", "reserved"),
        (b"\x81\x7f" + b"\x7f" * 8, "bytes"),
    ],
)
def test_frames_that_a_server_must_not_send(data: bytes, why: str) -> None:
    with pytest.raises(Broken, match=why):
        ServerFrames(False).feed(data)


@given(st.sampled_from([0, 62, 63, 150, 32_767, 32_768, 40_000]), st.booleans())
def test_frames_of_the_client(size: int, compress: bool) -> None:
    payload = b"ab" * size
    reader = FrameReader(1 << 20, True)
    got, more = [], client_frame(TEXT, payload, compress=compress) + client_frame(PING, b"x")
    while True:
        got += reader.feed(more)
        more = b""
        if not reader.more:
            break
    assert (got, reader.failure) == ([(TEXT, payload), (PING, b"x")], None)


def test_addresses() -> None:
    assert ServerAddress.of("http://h:81") == ServerAddress("h", 81, "/ws", False)
    assert ServerAddress.of("wss://h/chat/ws?a=b") == ServerAddress("h", 443, "/chat/ws?a=b", True)
    assert ServerAddress.of("http://[::1]/").authority == "[::1]:80"


# A client, as the server's messages find it.


class Socket(WebSocket):
    """Remembers what was sent."""

    def __init__(self) -> None:
        self.sent: list[Data] = []

    def send(self, command: Data) -> None:
        self.sent.append(command)


def client(ledger: Ledger, socket: Socket) -> Device:
    """In the room r."""
    address = ServerAddress("127.0.0.1", 1, "/ws", False)
    made = Device(
        "c1", ["r"], ledger, address, token=None, codec=JSON, compressed=False, small=False, dice=random.Random(1)
    )
    welcome = {"type": "welcome", "user": "u", "name": "U", "epoch": "e", "server_time": 1, "limits": {}}
    made.take(socket, welcome)
    made.take(socket, {"type": "joined", "room": "r", "head": 0, "cursor": 0, "read": 0, "epoch": "e"})
    made.take(socket, {"type": "synced", "room": "r", "seq": 0})
    return made


def error(code: str, **more: Any) -> Data:
    return {"type": "error", "code": code, "message": "", "retry_after": 0.001, **more}


async def test_what_was_not_kept_is_sent_again_although_another_device_was_told() -> None:
    ledger, socket = Ledger(["r"]), Socket()
    one = client(ledger, socket)
    one.speak({"type": "send", "room": "r", "text": "x"})
    (sent,) = one.unanswered.values()
    sent.seq = 1  # another device of the user has sent it too
    one.take(socket, error("unavailable", id=sent.id))
    await eventually(lambda: socket.sent.count(sent.command) == 2)
    one.take(socket, {"type": "ack", "id": sent.id, "room": "r", "seq": 1, "ts": 1, "duplicate": True})
    assert (one.unanswered, ledger.violations) == ({}, [])


async def test_errors_that_a_client_may_be_given() -> None:
    """What is transient; and not_found, if in the end the message was deleted."""
    ledger, socket = Ledger(["r"]), Socket()
    one = client(ledger, socket)
    one.take(socket, error("rate_limited"))
    for code, command in (
        ("not_found", {"type": "react", "room": "r", "seq": 1, "emoji": "x", "on": True}),
        ("not_found", {"type": "delete", "room": "r", "seq": 2}),
        ("forbidden", {"type": "send", "room": "r", "text": "x"}),
    ):
        one.speak(command)
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
async def test_what_is_not_for_this_client(message: Data) -> None:
    socket = Socket()
    one = client(Ledger(["r"]), socket)
    with pytest.raises(Broken):
        one.take(socket, message)


async def test_nothing_comes_before_welcome() -> None:
    with pytest.raises(Broken, match="welcome"):
        Device(
            "c1",
            ["r"],
            Ledger(["r"]),
            ServerAddress("", 1, "/ws", False),
            token=None,
            codec=JSON,
            compressed=False,
            small=False,
            dice=random.Random(1),
        ).take(Socket(), {"type": "synced", "room": "r", "seq": 0})
