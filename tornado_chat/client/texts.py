"""The texts of messages that grow, as they are read: each is put together of what comes, and checked at its end."""

from __future__ import annotations

import zlib

from tornado_chat.wire.events import Data


class Text:
    """What has come of one message."""

    __slots__ = ("gen", "pending", "text")

    def __init__(self) -> None:
        self.gen = 0
        self.text = ""
        self.pending: Data | None = None  # what was told last, and not taken yet


class Texts:
    """Those of all rooms; a message is forgotten with its end, or with its room."""

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found: dict[tuple[str, int], Text] = {}

    def grow(self, room: str, seq: int, gen: int, offset: int, part: str) -> tuple[bool, Data | None]:
        """Whether `part` continues what is held, else all of it must be asked for; and what to tell, if anything."""
        text = self._found.setdefault((room, seq), Text())
        if gen < text.gen:
            return True, None
        if gen > text.gen:
            if offset:
                return False, None
            whole = part
        elif offset > len(text.text):
            return False, None
        else:
            whole = text.text[:offset] + part
        before, text.text, text.gen = text.text, whole, gen
        kept = min(len(before), len(whole)) if whole.startswith(before) or before.startswith(whole) else offset
        if kept == len(whole) == len(before):
            return True, None
        told = text.pending
        if told is not None and told["offset"] <= kept:
            told["text"] = whole[told["offset"] :]
            return True, None
        text.pending = {"type": "grown", "room": room, "seq": seq, "offset": kept, "text": whole[kept:]}
        return True, text.pending

    def text(self, room: str, seq: int) -> str:
        """What is held of it."""
        return self._found[room, seq].text

    def taken(self, told: Data) -> None:
        text = self._found.get((told["room"], told["seq"]))
        if text is not None and text.pending is told:
            text.pending = None

    def complete(self, finished: Data) -> bool:
        """Give `finished` the text that it comes without; False if that is not held."""
        text = self._found.pop((finished["room"], finished["target"]), None)
        if "text" in finished or "deleted" in finished:
            return True
        whole = "" if text is None else text.text[: finished["length"]]
        if len(whole) != finished["length"] or zlib.crc32(whole.encode()) != finished["crc"]:
            return False
        finished["text"] = whole
        return True

    def forget(self, room: str) -> None:
        for key in [key for key in self._found if key[0] == room]:
            del self._found[key]
