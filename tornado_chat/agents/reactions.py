"""A reaction, and what the agent says about it: each replica calls its handler, and the log keeps one answer."""

from __future__ import annotations

import logging
from contextlib import aclosing

from tornado_chat.agents.context import Context, ThreadContext
from tornado_chat.agents.handlers import Handler, pieces, runs_on_the_loop, text_of
from tornado_chat.agents.history import PAGE, provider_messages
from tornado_chat.agents.message import Message, Reaction
from tornado_chat.agents.places import Place
from tornado_chat.agents.steps import STATUS_CHARS, Step, ToolCall, ToolResult, short
from tornado_chat.errors import ChatError
from tornado_chat.wire.attempts import attempt_id
from tornado_chat.wire.events import Data

logger = logging.getLogger(__name__)


class Reacting:
    """The Stage of a handler that is told of a reaction: what it says is one message at its end."""

    def __init__(self, room: Place, reaction: Reaction) -> None:
        self.room = room
        self.reaction = reaction
        self.cancelled = False
        self._texts: list[str] = []
        self._said = 0

    async def run(self, handler: Handler) -> None:
        room, reaction = self.room, self.reaction
        context = Context(self, room.name, None, room.state, 1, False)
        given = context if runs_on_the_loop(handler) else ThreadContext(context)
        try:
            async with aclosing(pieces(handler, room.life.turns.threads, reaction.user, given, reaction)) as said:
                async for piece in said:
                    await self.write(piece)
            text = "".join(self._texts)
            if text:
                await room.life.client.send(
                    room.name, text, reply_to=reaction.target, mark=False, id=attempt_id(reaction.seq, 1)
                )
        except ChatError as error:
            logger.warning("reaction not answered room=%s seq=%d reason=%s", room.name, reaction.seq, error)
        except (Exception, SystemExit):
            logger.exception("on_reaction failed room=%s seq=%d", room.name, reaction.seq)
        finally:
            self.cancelled = True
            if isinstance(given, ThreadContext):
                given.end()

    async def write(self, piece: object) -> None:
        if not isinstance(piece, ToolCall | ToolResult):
            self._texts.append(text_of(piece))

    async def say(self, text: str) -> int:
        self._said += 1
        room, reaction = self.room, self.reaction
        id = f"say:{reaction.seq}:1:{self._said}"
        return (await room.life.client.send(room.name, text, reply_to=reaction.target, mark=False, id=id)).seq

    async def ask(self, text: str, seconds: float) -> Message:
        raise RuntimeError("who reacts was not asking: only the handler of a message can ask")

    async def history(self, tokens: int) -> list[Data]:
        client, room, reaction = self.room.life.client, self.room.name, self.reaction

        async def page(before: int | None) -> Data:
            return await client.history(room, before=before, limit=PAGE)

        return await provider_messages(page, self.room.life.user, reaction.target, tokens, reaction.seq)

    async def typing(self, on: bool) -> None:
        await self.room.life.client.typing(self.room.name, on)

    async def status(self, text: str) -> None:
        await self.room.life.client.status(self.room.name, short(text, STATUS_CHARS))

    async def begin_step(self, name: str, input: str) -> Step:
        return Step("1", name, input)  # there is no reply that it could be shown with

    async def end_step(self, step: Step) -> None:
        pass
