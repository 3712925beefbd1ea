"""The commands that end messages that grow: `stop`, and `delete` of one that grows still; wherever it is written."""

from __future__ import annotations

import asyncio

from tornado_chat.errors import ChatError, ErrorCode, LogUnavailable
from tornado_chat.live.growing_messages import GrowingMessages
from tornado_chat.live.hub import Hub
from tornado_chat.live.line import Sender
from tornado_chat.live.publisher import Publisher
from tornado_chat.log import Entry
from tornado_chat.wire.replies import Stop

END_SECONDS, LOOK_SECONDS = 10.0, 0.25
"""How long a `stop` waits for the end, and how often it looks for one in another process."""


class Stopping:
    """Made once."""

    def __init__(self, hub: Hub, messages: GrowingMessages, publisher: Publisher) -> None:
        self._hub = hub
        self._messages = messages  # that grow here
        self._publisher = publisher

    async def stop(self, room: str, seq: int | None, user: str, *, moderator: bool) -> None:
        """End what `user` may stop in the room, or one message; returns when that is committed.

        ChatError: there is none (`not_found`), or it is not theirs (`forbidden`).
        """
        log = self._hub.log
        found = [one for one in await log.open(room) if seq in (None, one.seq)]
        theirs = [one for one in found if moderator or user in (one.user, one.asker)]
        if not theirs:
            if found and seq is not None:
                raise ChatError(
                    ErrorCode.FORBIDDEN, f"message {seq} of room {room} is neither yours nor an answer to you"
                )
            if seq is not None and await self._has_ended(room, seq):
                return
            what = "no message that you may stop" if seq is None else f"no message {seq} that"
            raise ChatError(ErrorCode.NOT_FOUND, f"{what} grows in room {room}")
        seqs = {one.seq for one in theirs}
        await log.stop(room, seqs, user)
        for one in theirs:
            self._messages.stop(room, one.seq, user)
            told = Stop(room=room, seq=one.seq, by=user)
            self._messages.tell_stop(one.user, told)
            self._hub.broker.publish_stop(one.user, told)
        try:
            async with asyncio.timeout(END_SECONDS):
                await self._wait_for_ends(room, seqs)
        except TimeoutError:
            raise ChatError(ErrorCode.UNAVAILABLE, "it was told to stop, and has not ended yet", 1.0) from None

    async def _has_ended(self, room: str, seq: int) -> bool:
        events = await self._hub.log.read(room, seq - 1, max_events=1, max_bytes=1)
        return bool(events) and "streaming" in events[0].data

    async def _wait_for_ends(self, room: str, seqs: set[int]) -> None:
        for seq in seqs:
            message = self._messages.find(room, seq)
            if message is not None and (message.room, message.user, message.id) in self._messages.by_name:
                if message.done is None:
                    message.done = self._hub.shared.loop.create_future()
                await asyncio.shield(message.done)
        while seqs & {one.seq for one in await self._hub.log.growing(room)}:  # noqa: ASYNC110 - of another process
            await asyncio.sleep(LOOK_SECONDS)

    def delete(self, entry: Entry, sender: Sender) -> None:
        """Stop the message that `entry` deletes, then submit it; `sender` is answered in the end, whatever comes."""
        self._hub.tasks.spawn(self._delete(entry, sender))

    async def _delete(self, entry: Entry, sender: Sender) -> None:
        try:
            await self.stop(entry.room, entry.target, entry.user, moderator=False)
        except ChatError as error:
            sender.published(entry, ChatError(ErrorCode.UNAVAILABLE, error.message, 1.0))
        except (LogUnavailable, TimeoutError):
            sender.published(entry, ChatError(ErrorCode.UNAVAILABLE, "the log did not answer: try again", 1.0))
        else:
            self._publisher.submit(sender, entry)
            return
        sender.flush_replies()
