"""What a line is, who listens to it, and who publishes from it: the Protocols between the parts of `live/`."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Protocol

from tornado_chat.errors import ChatError
from tornado_chat.log import Appended, Entry

logger = logging.getLogger(__name__)


class Line(Protocol):
    """Where bytes for one client go. All calls are made on the event loop's thread, and none of them blocks."""

    closing: bool
    """It has ended or begun to close: writes are dropped."""
    outbox_bytes: int
    """What the socket has not taken yet."""
    asked_bytes: int
    """How much of that are answers, noted by whoever writes them; 0 again when the outbox is empty."""

    key: int
    """By which others may send to its socket while it is direct (see fanout.py); fanout.NO_KEY: it never is."""

    def write(self, data: bytes) -> None:
        """Send whole frames, or keep them in the outbox. Never calls back, and never refuses."""

    def sent(self, data: bytes, taken: int) -> None:
        """Somebody who had `key` sent `data` to the socket, which took less: `taken` bytes, or fanout.FAILED."""

    def cork(self) -> None:
        """Gather what is written from now on, for one system call at the `uncork` that follows in the same turn.

        Again before that: nothing more happens.
        """

    def uncork(self) -> None:
        """Send what was gathered; nothing if it was sent already."""

    def close(self, code: int, reason: str = "") -> None:
        """Say good-bye after what waits in the outbox, and end. The first close counts; later ones do nothing."""

    def want_drained(self) -> None:
        """Ask for one call of `Listener.on_drained` as soon as the outbox is at half the high-water mark or below."""

    def pause_reading(self) -> None:
        """Hand over no more messages until `resume_reading`, not even those that were read already."""

    def resume_reading(self) -> None: ...


class Listener(Protocol):
    """Whom a line belongs to. Calls come from the event loop; what they raise closes the line with 1011."""

    def on_message(self, payload: bytes) -> None:
        """A whole message of the line's codec; text is valid UTF-8."""

    def on_overhead(self, size: int) -> None:
        """Something came that is no message (pings, pongs, fragments), and took the time of `size` bytes of them."""

    def on_drained(self) -> None:
        """After `want_drained`: the outbox holds half the high-water mark or less."""

    def on_closed(self, code: int, reason: str) -> None:
        """The line has ended or begun to close. Called once, from the loop itself, never from inside a call.

        `code` and `reason` are those of the first close frame, the peer's (1005: it had none) or ours; 1006 if the
        connection broke before either; what `abort` was given.
        """


class Sender(Protocol):
    """Who publishes, and waits: for room in a queue, and for the log's answers."""

    user: str

    def resume(self) -> None:
        """What the sender waited for has happened, or may have."""

    def published(self, entry: Entry, outcome: Appended | ChatError) -> None:
        """The log has answered; `flush_replies` follows when it has answered the whole batch."""

    def flush_replies(self) -> None: ...

    def fail(self) -> None:
        """The server has failed on it, and has logged that: let the client come back and say what it holds."""


def resume_all(senders: Iterable[Sender]) -> None:
    """Resume each. A fault of one ends that one."""
    for sender in senders:
        try:
            sender.resume()
        except Exception:
            logger.exception("sender not resumed user=%s", sender.user)
            sender.fail()
