"""Whether an answer to `history` shows messages as they were. No I/O, no clock.

The log goes on while it is asked. So each message must be as it was at some moment from the question to the answer, and
each of its reactions too, perhaps at another one.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence

from tornado_chat.verify.codecs import Data
from tornado_chat.verify.findings import Finding
from tornado_chat.verify.record import Change, Record, meta_digest, short, text_digest

LEAST_BYTES = 512 * 1024
"""A page may have fewer messages than were asked for, though there are older ones, because of its size only: the
protocol says that this is about 1 MiB."""


class Page:
    """One answer: the `messages` before `before` (None: the last ones), and whether there are `more`."""

    __slots__ = ("before", "limit", "low", "messages", "more")

    def __init__(self, before: int | None, limit: int, low: int, messages: Sequence[Data], more: bool) -> None:
        """`low` is a seq that the log had reached when it was asked."""
        self.before = before
        self.limit = limit
        self.low = low
        self.messages = messages
        self.more = more


def faults(record: Record, page: Page, high: int) -> Iterator[Finding]:
    """What is wrong with `page`; all events up to `high` must be known, and it was answered before any later one."""
    before = 2**63 if page.before is None else page.before
    seqs = [message["seq"] for message in page.messages]
    wrong = _order(record, seqs, min(before - 1, high)) or _gap(record, page, seqs, min(before - 1, page.low))
    if wrong is not None:
        yield wrong
        return
    for message in page.messages:
        fault = _fault(record, message, page.low, high)
        if fault:
            yield Finding("history", f"{fault}: {short(message)}", message["seq"])


def _order(record: Record, seqs: Sequence[int], last: int) -> Finding | None:
    """Messages only, ascending, up to `last`."""
    previous = 0
    for seq in seqs:
        if seq <= previous:
            return Finding("history", f"stands after {previous}", seq)
        if seq > last:
            return Finding("history", f"is not before {last + 1}", seq)
        if not record.is_message(seq):
            return Finding("history", "is no message, and stands among them", seq)
        previous = seq
    return None


def _gap(record: Record, page: Page, seqs: Sequence[int], last: int) -> Finding | None:
    """All messages up to `last`, but for those before the first where there are `more`."""
    if len(seqs) > page.limit:
        return Finding("history", f"{len(seqs)} messages, {page.limit} were asked for")
    if page.more and (not seqs or not record.first_message(1, seqs[0])):
        return Finding("history", "there are no more messages before it", seqs[0] if seqs else 0)
    expected, there = (seqs[0] if page.more else 1), set(seqs)
    end = max(last, seqs[-1] if seqs else 0) + 1
    while seq := record.first_message(expected, end):
        if seq not in there:
            shown = f"{len(seqs)} from {seqs[0]} to {seqs[-1]}" if seqs else "none"
            return Finding("history", f"is left out: {shown}, and the log had {last} when it was asked", seq)
        expected = seq + 1
    if page.more and len(seqs) < page.limit and _size(page) < LEAST_BYTES:
        return Finding("history", f"the first of {len(seqs)}, although {page.limit} were asked for", seqs[0])
    return None


def _size(page: Page) -> int:
    return sum(len(json.dumps(message, ensure_ascii=False, default=repr).encode()) for message in page.messages)


def _fault(record: Record, message: Data, low: int, high: int) -> str:
    """Why `message` cannot be what it was at a moment between `low` and `high`; empty if it can."""
    if not record.is_the_same(message):
        return "differs from the event that it is"
    changes = [change for change in record.changes.get(message["seq"], ()) if change.seq <= high]
    settled = sum(change.seq <= low for change in changes)
    if not any(_is_as_after(record, message, changes[:count]) for count in range(settled, len(changes) + 1)):
        return "is not as its edits and its deletion left it"
    given = {(emoji, user) for emoji, users in (message.get("reactions") or {}).items() for user in users}
    for pair in given | {(change.emoji, change.user) for change in changes if change.type == "reacted"}:
        if (pair in given) not in {_is_on(pair, changes[:count]) for count in range(settled, len(changes) + 1)}:
            return f"{pair[0]} of {pair[1]} {'was taken back' if pair in given else 'is left out'}"
    return ""


def _is_as_after(record: Record, message: Data, changes: Sequence[Change]) -> bool:
    """Whether its text, its meta and `edited` are as these changes left them."""
    edit = next((change for change in reversed(changes) if change.type == "edited"), None)
    end = next((change for change in changes if change.type == "finished"), None)
    growth = record.growths.get(message["seq"])
    edited = edit.ts if edit else None
    if any(change.type == "deleted" for change in changes):
        gone = message.get("deleted") is True and message.get("meta") is None and message.get("mentions") is None
        return gone and message.get("edited") in (None, edited)
    if message.get("deleted") is True or message.get("edited") != edited:
        return False
    if (message.get("streaming") is True) is not (growth is not None and end is None):
        return False
    text, meta = record.digests(edit.seq if edit else message["seq"]), record.digests(message["seq"])
    if growth is not None and end is None:
        told = growth.is_part(0, message["text"])
    elif growth is not None and edit is None:
        assert end is not None
        crc = record.digests(end.seq)
        told = crc is None or crc[0] == text_digest({"crc": zlib.crc32(message["text"].encode())})
    else:
        told = text is None or text[0] == text_digest(message)
    last = record.digests(end.seq) if end is not None else None
    if last is not None and last[1]:
        meta = last
    return told and (meta is None or meta[1] == meta_digest(message))


def _is_on(pair: tuple[str, str], changes: Sequence[Change]) -> bool:
    """Whether this emoji of this user stands after these changes; a deletion takes all of them."""
    for change in reversed(changes):
        if change.type == "deleted":
            return False
        if change.type == "reacted" and (change.emoji, change.user) == pair:
            return change.on
    return False
