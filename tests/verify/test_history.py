"""Pages of `history` that are true, and what is found in those that are not."""

from __future__ import annotations

from copy import deepcopy
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tornado_chat.verify.codecs import Data
from tornado_chat.verify.history import LEAST_BYTES, Page, faults
from tornado_chat.verify.record import Record

USERS = ("ann", "bob")


class Room:
    """A room's messages after each of its events, as a server tells them."""

    def __init__(self, seed: int, length: int) -> None:
        self.record = Record("r")
        self.after: list[dict[int, Data]] = [{}]  # by the head: the messages as they were then, by seq
        dice = Random(seed)
        for seq in range(1, length + 1):
            event = self._event(dice, seq, self.after[-1])
            assert self.record.see(event, "c1", 1.0) == (None, 0.0)
            self.after.append(self._changed(self.after[-1], event))

    def _event(self, dice: Random, seq: int, messages: dict[int, Data]) -> Data:
        event: Data = {"room": "r", "seq": seq, "user": dice.choice(USERS), "ts": 1000 + seq}
        alive = [one for one, message in messages.items() if "text" in message]
        kind = dice.choice(["message", "message", "edited", "reacted", "reacted", "deleted"]) if alive else "message"
        event["type"] = kind
        if kind != "message":
            event["target"] = dice.choice(alive)
        if kind in ("message", "edited"):
            event["text"] = f"text {seq}"
        if kind == "message":
            event |= {"n": len(messages) + 1, "name": event["user"], "id": f"i{seq}"}
            event |= dice.choice([{}, {"meta": {"n": seq}}, {"reply_to": 1}])
        if kind == "reacted":
            event |= {"emoji": dice.choice("xy"), "on": dice.random() < 0.6}
        return event

    def _changed(self, before: dict[int, Data], event: Data) -> dict[int, Data]:
        messages = deepcopy(before)
        if event["type"] == "message":
            messages[event["seq"]] = event
            return messages
        message = messages[event["target"]]
        if event["type"] == "edited":
            message |= {"text": event["text"], "edited": event["ts"]}
        elif event["type"] == "deleted":
            for field in ("text", "meta", "reactions"):
                message.pop(field, None)
            message["deleted"] = True
        else:
            given = message.setdefault("reactions", {})
            users = set(given.pop(event["emoji"], [])) - {event["user"]} | ({event["user"]} if event["on"] else set())
            if users:
                given[event["emoji"]] = sorted(users)
            if not given:
                del message["reactions"]
        return messages

    def page(self, head: int, limit: int, *, before: int | None = None, low: int | None = None) -> Page:
        """As a sound server answers at `head`."""
        all_of_them = [one for seq, one in self.after[head].items() if before is None or seq < before]
        shown = deepcopy(all_of_them[-limit:])
        return Page(before, limit, head if low is None else low, shown, len(all_of_them) > limit)

    def faults(self, page: Page, high: int | None = None) -> list[tuple[str, int]]:
        return [(found.kind, found.seq) for found in faults(self.record, page, high or len(self.after) - 1)]


@given(st.integers(0, 1000), st.data())
def test_a_page_as_it_was_at_any_moment_is_true(seed: int, data: st.DataObject) -> None:
    room = Room(seed, 30)
    low = data.draw(st.integers(0, 30))
    high = data.draw(st.integers(low, 30))
    head = data.draw(st.integers(low, high))
    before = data.draw(st.none() | st.integers(1, 40))
    page = room.page(head, data.draw(st.integers(15, 30)), before=before, low=low)
    assert room.faults(page, high) == []


@given(st.integers(0, 1000), st.data())
def test_a_page_as_it_was_before_it_was_asked_for_is_not(seed: int, data: st.DataObject) -> None:
    room = Room(seed, 30)
    then = data.draw(st.integers(1, 29))
    stale = room.page(then, 30, low=30)
    assert bool(room.faults(stale)) is (room.after[then] != room.after[30])


@given(st.integers(0, 1000), st.data())
def test_a_page_as_it_will_be_is_not(seed: int, data: st.DataObject) -> None:
    room = Room(seed, 30)
    then = data.draw(st.integers(1, 29))
    early = room.page(30, 30, low=then)
    assert bool(room.faults(early, then)) is (room.after[then] != room.after[30])


def falsify(name: str, page: Page, index: int) -> bool:
    """Change the page's message there; False if it does not fit."""
    messages: Any = page.messages
    message = messages[index]
    match name:
        case "text" if "text" in message:
            message["text"] += "!"
        case "meta" if "meta" in message:
            message["meta"] = {"n": -1}
        case "no meta" if "meta" in message:
            del message["meta"]
        case "name":
            message["name"] = "eve"
        case "user":
            message["user"] = "eve"
        case "ts":
            message["ts"] += 1
        case "id":
            message["id"] = "other"
        case "edited" if "text" in message:
            message["edited"] = message.get("edited", 0) + 1
        case "not edited" if "text" in message and "edited" in message:
            del message["edited"]
        case "deleted" if "text" in message:
            del message["text"]
            message["deleted"] = True
        case "back" if "deleted" in message:
            del message["deleted"]
            message["text"] = f"text {message['seq']}"
        case "meta back" if "deleted" in message:
            message["meta"] = {"n": message["seq"]}
        case "a reaction more":
            message["reactions"] = message.get("reactions", {}) | {"z": ["ann"]}
        case "a reaction less" if "reactions" in message:
            message["reactions"].popitem()
        case "left out" if index:
            del messages[index]
        case "twice":
            messages.insert(index, message)
        case "swapped" if index:
            messages[index - 1], messages[index] = message, messages[index - 1]
        case "renumbered":
            message["seq"] += 100
        case _:
            return False
    return True


FALSE = (
    "text,meta,no meta,meta back,name,user,ts,id,edited,not edited,deleted,back,a reaction more,a reaction less,"
    "left out,twice,swapped,renumbered"
)


@pytest.mark.parametrize("name", FALSE.split(","))
def test_whatever_is_false_in_a_page_is_found(name: str) -> None:
    tried = 0
    for seed in range(20):
        room = Room(seed, 40)
        for index in range(5):
            page = room.page(40, 8)
            seq = page.messages[index]["seq"] if index < len(page.messages) else 0
            if not seq or not falsify(name, page, index):
                continue
            tried += 1
            found = room.faults(page)
            assert found, (seed, index)
            assert found[0][0] == "history"
            if name not in ("twice", "swapped", "renumbered"):
                assert found == [("history", seq)], (seed, index)
    assert tried > 10


def test_how_many_there_are() -> None:
    room = Room(1, 60)
    whole = room.page(60, 200)
    count = len(whole.messages)
    assert count > 12
    assert room.faults(whole) == []
    for more, limit, messages in (
        (True, 200, whole.messages),  # there is none before the first
        (False, 10, whole.messages[-10:]),  # there are
        (True, 10, whole.messages[-9:]),  # so small a page is no reason
        (True, 10, whole.messages[-11:]),
        (True, 10, []),
        (False, 10, []),
        (False, 200, whole.messages[:-1]),
        (True, 10, whole.messages[-11:-1]),
    ):
        assert room.faults(Page(None, limit, 60, messages, more)), (more, limit, len(messages))
    assert room.faults(Page(whole.messages[-1]["seq"], 10, 60, whole.messages[-10:], True)), "it is not before itself"


def test_a_page_may_be_short_because_it_is_large() -> None:
    record, text = Record("r"), "x" * (LEAST_BYTES // 2)
    messages = [
        {"type": "message", "room": "r", "seq": seq, "n": seq, "user": "u", "name": "U", "ts": 1} | {"text": text}
        for seq in (1, 2, 3)
    ]
    for message in messages:
        record.see(message, "c1", 1.0)
    assert list(faults(record, Page(None, 10, 3, messages[1:], True), 3)) == []
