"""What the devices of one user are shown of the user's own log, and how `verify` finds that it is not what happened."""

from __future__ import annotations

from typing import Any

import pytest

from tornado_chat.verify.codecs import Data
from tornado_chat.verify.own_log import OwnLog, Register, Setting, leads_to
from tornado_chat.verify.record import Record

ME, EVE = "me", "eve"


def own(seq: int, type: str, about: str = "r", **more: Any) -> Data:
    return {"type": type, "room": "~", "seq": seq, "about": about, "user": ME, "ts": 1000 + seq, **more}


def mentioned(seq: int, target: int) -> Data:
    return own(seq, "mentioned", target=target, user=EVE, name="Eve")


def message(seq: int, n: int, user: str = EVE, **more: Any) -> Data:
    named = {"type": "message", "room": "r", "seq": seq, "n": n, "user": user, "name": user, "text": "x", "ts": seq}
    return named | {"id": f"i{seq}"} | more


ROOM: list[Data] = [
    message(1, 1, mentions=[ME]),
    message(2, 2, user=ME),
    {"type": "reacted", "room": "r", "seq": 3, "target": 1, "user": EVE, "emoji": "x", "on": True, "ts": 3},
    message(4, 3, mentions=["ann", ME]),
    message(5, 4, user=ME, id="unmarked"),
    message(6, 5, mentions=[ME]),
]
LOG: list[Data] = [
    mentioned(1, 1),
    own(2, "followed", level="everything", by=EVE, user=EVE),
    mentioned(3, 4),
    own(4, "marked", read=4),
    mentioned(5, 6),
    own(6, "followed", level="mentions"),
]
SETTINGS = (("everything", EVE), ("mentions", None))
FIRST: Data = {"room": "r", "level": "everything", "head": 3, "messages": 2, "read": 2, "unread": 0, "mentions": 0}
LAST: Data = {"room": "r", "level": "mentions", "head": 6, "messages": 5, "read": 4, "unread": 2, "mentions": 1}


def heard(
    events: list[Data] = LOG, states: dict[int, Data] | None = None, *, room: list[Data] = ROOM, said: Any = SETTINGS
) -> list[tuple[str, int]]:
    """What is found in these events and states, at once and in the end."""
    log, record, found = OwnLog(ME), Record("r"), []
    record.unmarked.add((ME, "unmarked"))
    for event in room:
        record.see(event, "c1", 1.0)
    log.ask_mark("r", 4, 6)
    for setting in (Setting(*one) for one in said):
        log.set("r", setting)
        log.take_setting("r", setting)
    known = log.known({"r": Record("r")})
    for cursor, state in (states or {}).items():
        found += log.take_state(cursor, {"rooms": [state]}, "c1", known, after=None, now=1.0)
    for event in events:
        found += log.see(event, "c1", 1.0)[0]
    found += log.audit({"r": record}, {"r": record.counts()})
    return [(finding.kind, finding.seq) for finding in found]


def test_a_sound_own_log_and_its_states() -> None:
    assert heard(states={2: FIRST | {"by": EVE}, 6: LAST}) == []


@pytest.mark.parametrize(
    ("at", "changed", "kind"),
    [
        (0, {"target": 4}, "mention"),
        (0, {"target": 3}, "mention"),
        (0, {"user": "ann"}, "mention"),
        (0, {"about": "s"}, "mention"),
        (1, {"level": "nothing"}, "follow"),
        (1, {"user": "ann"}, "content"),
        (3, {"read": 5}, "mark"),
        (5, {"level": "nothing"}, "follow"),
        (5, {"user": EVE}, "content"),
        (5, {"type": "unfollowed"}, "follow"),
    ],
)
def test_an_event_that_tells_something_else(at: int, changed: Data, kind: str) -> None:
    assert kind in dict(heard([*LOG[:at], LOG[at] | changed, *LOG[at + 1 :]]))


def test_events_that_are_missing_or_too_many() -> None:
    for at in range(len(LOG)):
        shifted = [event | {"seq": seq} for seq, event in enumerate(LOG[:at] + LOG[at + 1 :], 1)]
        assert {kind for kind, _ in heard(shifted)} <= {"mention", "follow", "state"}
        assert bool(heard(shifted)) is (LOG[at]["type"] != "marked"), at
        twice = [event | {"seq": seq} for seq, event in enumerate([*LOG[: at + 1], *LOG[at:]], 1)]
        assert heard(twice) != [], at
    assert heard([LOG[0], *LOG[2:]]) == [("lost", 2)]
    assert heard(states={6: LAST}) == []
    assert heard([LOG[0], LOG[1], LOG[2] | {"target": 7}]) != []


@pytest.mark.parametrize(
    "wrong",
    [
        {"level": "everything"},
        {"by": EVE},
        {"room": "s"},
        {"head": 7},
        {"messages": 4, "unread": 1},
        {"read": 2, "unread": 3, "mentions": 2},
        {"read": 5, "unread": 1},
        {"unread": 1},
        {"mentions": 0},
        {"mentions": 2},
    ],
)
def test_a_state_that_is_not_what_its_log_leads_to(wrong: Data) -> None:
    found = heard(states={6: LAST | wrong})
    assert found
    assert set(found) == {("state", 6)}


def test_a_state_that_is_older_than_what_was_told() -> None:
    log = OwnLog(ME)
    for event in LOG[:2]:
        log.see(event, "c1", 1.0)
    log.take_mark("r", 2)
    record = Record("r")
    record.see(ROOM[0], "c1", 1.0)
    known = log.known({"r": record})
    for cursor, state in ((1, FIRST), (2, FIRST | {"head": 0}), (2, FIRST | {"read": 1})):
        found = log.take_state(cursor, {"rooms": [state | {"by": EVE}]}, "c1", known, after=None, now=1.0)
        assert found[0].kind == "state", state
    assert log.take_state(2, {"rooms": [FIRST | {"by": EVE}]}, "c1", known, after=None, now=1.0) == []


def test_what_is_gone_need_not_have_been_shown() -> None:
    """Whoever comes with an old cursor gets a state; the devices may all have been away."""
    for after, found in ((0, []), (None, [("lost", 1), ("lost", 2)])):
        log = OwnLog(ME)
        log.take_state(2, {"rooms": []}, "c1", log.known({}), after=after, now=1.0)
        for event in LOG[2:]:
            assert log.see(event, "c1", 1.0)[0] == []
        assert [(finding.kind, finding.seq) for finding in log.audit({}, {})] == found


F, M, INVITED, AWAY = ("everything", None), ("mentions", None), ("everything", EVE), None


@pytest.mark.parametrize(
    ("said", "seen", "sound"),
    [
        ([F, M], [F, M], True),
        ([F, M], [M, F], False),
        ([F, M], [F], False),
        ([F, F], [F], True),
        ([F, F], [F, F], False),
        ([(None, None), F], [F], True),
        ([F, INVITED], [F], True),
        ([INVITED, F], [INVITED, F], True),
        ([INVITED, F], [INVITED], False),
        ([F, (None, None), F], [F, AWAY, F], True),
        ([], [F], False),
    ],
)
def test_what_was_said_leads_to_what_is_seen(
    said: list[tuple[str | None, str | None]], seen: list[Register], sound: bool
) -> None:
    settings = [Setting(*one) for one in said]
    for setting in settings:
        setting.answered = True
    assert leads_to(settings, seen) is sound


def test_a_setting_without_an_answer_may_have_been_carried_out() -> None:
    settings = [Setting(*F), Setting(*M)]
    settings[0].answered = True
    assert leads_to(settings, [F])
    assert leads_to(settings, [F, M])
    assert not leads_to(settings, [M])
    settings[1].answered = settings[1].refused = True
    assert leads_to(settings, [F])
    assert not leads_to(settings, [F, M])


def test_a_copy_that_the_network_held_back_may_come_late() -> None:
    """Of what had changed nothing: nothing remembers its id."""
    said = [F, F, M, AWAY]
    settings = [Setting(*one) if one else Setting(None, None) for one in said]
    for setting in settings:
        setting.answered = True
    assert not leads_to(settings, [F, M, F, AWAY])
    settings[1].writes = 2
    assert leads_to(settings, [F, M, F, AWAY])
    assert leads_to(settings, [F, M, AWAY, F])
    assert not leads_to(settings, [F, M, F, AWAY, F])


def test_many_copies_that_may_come_late_are_judged_in_time() -> None:
    settings = [Setting(*said) for said in [F, M] * 20]
    for setting in settings:
        setting.answered, setting.writes = True, 2
    assert leads_to(settings, [F, M] * 20)
    assert leads_to(settings, [F, M] * 30)
    assert not leads_to(settings, [F, M] * 20 + [AWAY])
