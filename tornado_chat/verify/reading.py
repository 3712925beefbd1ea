"""What a device is shown of messages that grow: nothing that their authors have not said, at the place at which they
have, and in the end all of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from tornado_chat.verify.codecs import Data
from tornado_chat.verify.findings import Finding
from tornado_chat.verify.growth import Growth
from tornado_chat.verify.messages import ERRORS
from tornado_chat.verify.speaker import Speaker

Place = tuple[str, int]
"""The room and the seq of a message."""


class Reading:
    """That of one device, over all its connections: it keeps what it was shown of a text, as a client does."""

    def __init__(self, device: Speaker) -> None:
        self._device = device
        self._have: dict[Place, int] = {}  # how much of what grows
        self._gens: dict[Place, int] = {}  # of what it has, where that is not the first
        self._fetching: dict[Place, bool] = {}  # what it lacks, and whether that was asked for on this connection
        self._not_found: list[Place] = []

    def waits(self) -> str | None:
        """The room of a text that is not complete."""
        return next((room for room, _ in self._fetching), None)

    def connect(self) -> None:
        """A new connection: what it lacks is asked for again."""
        for place in list(self._fetching):
            self._ask(place)

    def close(self) -> None:
        self._fetching = dict.fromkeys(self._fetching, False)

    def take_message(self, event: Data) -> None:
        """The event of one that grows, perhaps again."""
        self._have.setdefault((event["room"], event["seq"]), 0)

    def take_chunks(self, room: str, chunks: list[tuple[int, int, int, str]], cursor: int) -> Iterator[Finding]:
        """The room's events were shown up to `cursor`."""
        self._device.ledger.counts["chunks"] += len(chunks)
        for seq, gen, offset, text in chunks:
            growth = self._device.ledger.records[room].growths.get(seq)
            if growth is None or seq > cursor:
                yield Finding("text", "a chunk of a message that does not grow, or was not shown yet", seq)
                continue
            yield from self._check(growth, gen, offset, text)
            place = room, seq
            if place in self._have:
                self._take(place, growth, gen, offset, text)
                lacks = offset > self._have[place] and gen >= self._gens.get(place, 1)
                if lacks and place not in self._fetching:
                    self._device.ledger.counts["gaps"] += 1
                    self._ask(place)

    def take_stream(self, stream: Data) -> Iterator[Finding]:
        """The answer to `fetch`, or what is there when a room is synced."""
        room, seq, offset, text = stream["room"], stream["seq"], stream["offset"], stream["text"]
        place = room, seq
        self._device.ledger.counts["snapshots"] += 1
        if stream.get("id") is not None and self._fetching.pop(place, None) is None:
            yield Finding("protocol", "a text that was not asked for", seq)
        growth = self._device.ledger.records[room].growths.get(seq)
        if growth is None:
            yield Finding("text", "the text of a message that does not grow", seq)
            return
        yield from self._check(growth, stream["gen"], offset, text)
        self._take(place, growth, stream["gen"], offset, text)
        if stream["done"] and growth.end is not None and offset + len(text) != max(growth.end.length, offset):
            yield Finding(
                "text", f"a text that is done, with {offset + len(text)} characters of {growth.end.length}", seq
            )
        if stream["done"]:
            self._have.pop(place, None)
            self._gens.pop(place, None)

    def _check(self, growth: Growth, gen: int, offset: int, text: str) -> Iterator[Finding]:
        if not growth.has_gen(gen):
            yield Finding("text", f"a text of the gen {gen}, which is {growth.gen}", growth.seq)
        elif not growth.is_part(offset, text):
            yield Finding("text", f"at {offset} its author has not said {text[:80]!r}", growth.seq)

    def _take(self, place: Place, growth: Growth, gen: int, offset: int, text: str) -> None:
        have = self._have.get(place)
        before = self._gens.get(place, 1)
        if have is not None and gen != before:
            if gen < before:
                return
            self._gens[place] = gen
            self._have[place] = have = 0
        if have is not None and offset <= have < offset + len(text):
            self._have[place] = have = offset + len(text)
            growth.show(have, time.monotonic())

    def take_finished(self, event: Data, *, live: bool) -> Iterator[Finding]:
        """The end of a message; `live`: it was synced in the room."""
        room, target = event["room"], event["target"]
        growth = self._device.ledger.records[room].growths.get(target)
        if growth is None:
            yield Finding("text", f"{target}, which has ended, was no message that grows")
            return
        yield from growth.take_end(event, time.monotonic())
        if event.get("deleted") is True:
            self._done((room, target))
            return
        if event.get("text") is not None:
            self._device.ledger.counts["ends with their text"] += 1
            self._done((room, target))
            return
        if not live:
            yield Finding("text", "an end without its text, for whoever catches up")
        self._device.ledger.counts["ends without their text"] += 1
        if self._have.get((room, target), -1) >= event["length"]:
            self._done((room, target))
        elif (room, target) not in self._fetching:
            self._device.ledger.counts["gaps at the end"] += 1
            self._ask((room, target))

    def _done(self, place: Place) -> None:
        self._have.pop(place, None)
        self._gens.pop(place, None)
        self._fetching.pop(place, None)

    def _ask(self, place: Place) -> None:
        room, seq = place
        self._fetching[place] = self._device.connected
        command = {"type": "fetch", "id": f"fetch {room} {seq}", "room": room, "seq": seq}
        have = self._have.get(place, 0)
        self._device.send(command | ({"offset": have} if have else {}))

    def take_error(self, room: str, seq: int, error: Data, wait: float) -> None:
        """In place of what a `fetch` asked for."""
        place = room, seq
        if place not in self._fetching:
            self._device.violation(Finding("protocol", "an answer to a fetch that was not asked for"), room, seq)
        elif ERRORS[error["code"]]:
            self._device.later(wait, lambda: self._ask(place) if place in self._fetching else None)
        else:
            self._done(place)
            if error["code"] == "not_found":
                self._not_found.append(place)
            else:
                self._device.violation(Finding("error", f"fetch: {error['code']}: {error['message']}"), room, seq)

    def audit(self) -> None:
        """At the end: what was not found must have been deleted."""
        for room, seq in self._not_found:
            if seq not in self._device.ledger.records[room].deleted:
                finding = Finding("error", "a fetch was answered with not_found, but nobody deleted the message")
                self._device.violation(finding, room, seq)
