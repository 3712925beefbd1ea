"""The newest messages of a room as they are now, put together of its history and of what the iteration brings."""

from __future__ import annotations

from collections.abc import Iterable

from tornado_chat.wire.events import Data

KEPT = 1000
"""Messages of a room."""

KEPT_CHARS = 4_000_000
"""Of their texts together: the oldest messages go first, but for the last one."""


class Messages:
    """Each is like one of `history` (docs/protocol.md), by seq; one that has changed is another object."""

    __slots__ = ("_chars", "_kept")

    def __init__(self, page: Iterable[Data] = ()) -> None:
        """`page`: the messages of a `history`, from whose last one on everything is heeded."""
        self._kept: dict[int, Data] = {}
        self._chars = 0
        for message in page:
            self._put(message)

    def now(self) -> list[Data]:
        """Oldest first."""
        return list(self._kept.values())

    def heed(self, item: Data) -> bool:
        """Whether it changes something. What is about a message that is not here, or known already, does not."""
        kind = item["type"]
        if kind == "reset":
            self._kept.clear()
            self._chars = 0
            return True
        if kind == "message":
            # The texts of those that grow come behind it.
            if item["seq"] in self._kept:
                return False
            self._put(item)
            return True
        before = self._kept.get(item["seq"] if kind == "grown" else item.get("target", 0))
        if before is None or "deleted" in before:
            return False
        after = _after(before, item)
        if after is None:
            return False
        self._put(after)
        return True

    def _put(self, message: Data) -> None:
        before = self._kept.get(message["seq"], {})
        self._kept[message["seq"]] = message
        self._chars += len(message.get("text", "")) - len(before.get("text", ""))
        while len(self._kept) > KEPT or (self._chars > KEPT_CHARS and len(self._kept) > 1):
            oldest = self._kept.pop(next(iter(self._kept)))
            self._chars -= len(oldest.get("text", ""))


def _after(message: Data, item: Data) -> Data | None:
    """What `item` makes of the message; None: nothing that a reader could see."""
    match item:
        case {"type": "grown", "offset": offset, "text": text}:
            return {**message, "text": message.get("text", "")[:offset] + text} if "streaming" in message else None
        case {"type": "deleted"} | {"type": "edited" | "finished", "deleted": True}:
            gone = {"text", "meta", "mentions", "reactions", "streaming"}
            return {key: value for key, value in message.items() if key not in gone} | {"deleted": True}
        case {"type": "edited", "text": text, "ts": ts}:
            return {**message, "text": text, "edited": ts}
        case {"type": "finished", "text": text, "reason": reason}:
            ended = {key: value for key, value in message.items() if key != "streaming"}
            meta = {"meta": item["meta"]} if "meta" in item else {}
            return {**ended, **meta, "text": text, "reason": reason}
        case {"type": "reacted", "emoji": emoji, "user": user, "on": on}:
            given = {key: list(users) for key, users in message.get("reactions", {}).items()}
            users = given.setdefault(emoji, [])
            if on == (user in users):
                return None
            if on:
                users.append(user)
            else:
                users.remove(user)
            given = {key: users for key, users in given.items() if users}
            rest = {key: value for key, value in message.items() if key != "reactions"}
            return {**rest, "reactions": given} if given else rest
    return None
