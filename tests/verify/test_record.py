"""What all devices together must be shown of a room, and how `verify` finds that they were not."""

from __future__ import annotations

from typing import Any

import pytest

from tornado_chat.verify.codecs import Data
from tornado_chat.verify.findings import Finding
from tornado_chat.verify.ledger import VIOLATIONS_KEPT, Ledger, Times
from tornado_chat.verify.record import SEQ_LEAP, Record, promised


def event(seq: int, command: Data, user: str = "u") -> Data:
    outer: Data = {"seq": seq, "ts": 1000 + seq}
    if command["type"] == "send":
        outer |= {"name": "U", "n": {1: 1, 2: 2, 6: 3, 7: 4}[seq]}
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
    """What two devices are shown of `log`, the second late and with erased texts, and what the sender was told."""
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


@pytest.mark.parametrize("field", ["text", "user", "n", "ts", "name", "id", "reply_to", "meta"])
def test_all_devices_are_shown_the_same(field: str) -> None:
    record, _ = heard(LOG)
    changed = LOG[1] | {field: {"text": "other", "meta": {"a": 2}, "ts": 7, "reply_to": 9, "n": 3}.get(field, "z")}
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


def test_an_agents_messages_say_so_and_no_others() -> None:
    for agent in (False, True):
        record = Record("r")
        ours = promised({"room": "r", **COMMANDS[0]}, "u", agent=agent)
        told = LOG[0] | ({} if agent else {"agent": True})
        found = [record.see(told, "c1", 1.0)[0], record.acknowledge(1, ours, 2.0)]
        assert [finding and finding.kind for finding in found] == [None, "ack"]
        assert record.see(told | {"agent": agent or None}, "c2", 3.0)[0] is not None


def test_messages_are_counted_without_a_hole() -> None:
    """Whoever is wrong about one alike to all; what follows is counted on from there."""
    for n in (2, 4):
        record, found = heard([*LOG[:5], LOG[5] | {"n": n}])
        assert found == []
        assert audit(record, 6) == [(6, "content")]
    record, _ = heard([LOG[0], LOG[1] | {"n": 3}, *LOG[2:5], LOG[5] | {"n": 4}])
    assert audit(record, 6) == [(2, "content")]
    record, _ = heard([LOG[0], *LOG[2:]])
    assert audit(record, 6) == [(2, "lost")], "nobody knows what it was"


def test_what_was_acknowledged_is_in_the_log() -> None:
    record, _ = heard(LOG[:5])
    assert audit(record, 5) == [(6, "lost")]
    record, _ = heard(LOG, acked=[])
    assert audit(record, 5)[-1] == (6, "lost"), "shown, then gone"


def test_the_log_holds_only_what_was_sent_and_each_once() -> None:
    record, found = heard([*LOG, LOG[5] | {"seq": 7, "n": 4}])
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
        ledger.report(Finding("hole", "x"), room="r", seq=seq, device="c1")
    assert (len(ledger.violations), ledger.violation_count) == (VIOLATIONS_KEPT, VIOLATIONS_KEPT + 5)
    assert "room=r seq=1 client=c1 x" in str(ledger.violations[1])
    times = Times()
    assert times.summary() == {"p50": 0.0, "p99": 0.0, "max": 0.0}
    for milliseconds in range(100):
        times.add(milliseconds / 1000 + 0.0001)
    assert times.summary() == {"p50": 49.0, "p99": 98.0, "max": 99.1}
