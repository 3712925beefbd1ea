"""What one device must be shown of a room, and how `verify` finds that it was not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tornado_chat.verify.findings import Finding
from tornado_chat.verify.witness import MISSING_KEPT, Witness


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
        kinds([witness.take_event(1), witness.take_synced(0), witness.take_behind(0), witness.take_signal()])
        == ["protocol"] * 4
    )
    assert kinds([witness.take_joined(0)]) == ["protocol"]
    witness.ask(5)
    assert kinds([witness.take_joined(4)]) == ["lost"]
    assert kinds([witness.take_signal(), witness.take_synced(5)]) == ["protocol", "hole"]
    assert kinds([witness.take_synced(4)]) == ["protocol"]
    assert kinds([witness.take_behind(4), witness.take_signal(), witness.take_synced(4)]) == ["protocol"]
    assert kinds([witness.take_behind(3)]) == ["hole"]


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


def test_nothing_comes_of_a_room_that_was_left() -> None:
    witness = joined()
    witness.take_synced(0)
    witness.leave()
    assert kinds([witness.take_event(1), witness.take_signal()]) == [], "they were on their way"
    assert not witness.settled
    assert witness.take_left() is None
    late = [witness.take_event(2), witness.take_signal(), witness.take_synced(1), witness.take_behind(1)]
    assert kinds(late) == ["left"] * 4
    witness.ask(1)
    assert kinds([witness.take_joined(1), witness.take_event(2)]) == []


def test_leaving_is_answered_once_and_in_its_turn() -> None:
    witness = joined()
    assert kinds([witness.take_left()]) == ["protocol"]
    witness.pending.append("before")
    witness.leave()
    witness.pending.append("after")
    witness.ask(0)
    assert kinds([witness.take_joined(0)]) == ["protocol"], "it was asked for after the leave"
    (owed,) = filter(None, [witness.take_left()])
    assert (owed.kind, "before" in owed.text) == ("ack", True)
    witness = joined()
    witness.pending.extend(["a", "b"])
    witness.leave()
    assert kinds([witness.take_error("b"), witness.take_ack("a", 1, False), witness.take_left()]) == []
