"""One attempt to answer a question, as this process makes it: it claims it, runs the handler, and ends the reply.

1. The handler is called after the `begin` was acknowledged as ours, and when the log has been read up to it: so what it
   is given is the question as it stood then, and no other replica calls its own.
2. A stop, wherever it was said, cancels the handler, keeps what was said, and ends the reply as `stopped`.
3. A handler that fails ends it as `error`, with a sentence; the details are in the log of the process.
4. A process that ends, or a link that another replica has followed, leaves the reply as it is: it is taken over, or
   ends `interrupted` and is given again.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

from tornado_chat.agents.context import Context, ThreadContext
from tornado_chat.agents.handlers import Handler, pieces, runs_on_the_loop, text_of
from tornado_chat.agents.history import PAGE, provider_messages
from tornado_chat.agents.message import Message, message_of
from tornado_chat.agents.places import Place
from tornado_chat.agents.question import Question, hops_of
from tornado_chat.agents.steps import STATUS_CHARS, STEPS, Step, ToolCall, ToolResult, short, with_steps
from tornado_chat.client import Closed, Held, Reply, Stopped
from tornado_chat.errors import ChatError, ErrorCode, Reason
from tornado_chat.wire.attempts import ask_id, attempt_id
from tornado_chat.wire.events import Data

logger = logging.getLogger(__name__)

CANCEL_SECONDS = 1.0
"""For a handler to end after a stop: the server waits 2 s for the end of the reply."""

ERROR_SECONDS = 5.0
"""For `on_error`."""

RETRY_SECONDS = 5.0
"""Until a `begin` that cannot be had for now is tried again."""

TAKEOVERS = 5
"""Of one attempt: a further one ends it as `interrupted`, so that a question does not kill its answerers for ever."""

REPEAT_SECONDS = 5.0
"""How often status and running steps are told again, so that who comes sees them; they lapse after 6 s."""

SORRY = "Sorry, something went wrong while I answered. Ask again, or tell whoever runs me."
TOO_LONG = "This is as long as a reply may be. Ask for the rest."
TOO_SOON = "I am still answering what you asked before. Ask again when I have."


class Turn:
    """`run` is its task. It is the Stage of its handler."""

    def __init__(self, room: Place, question: Question, number: int, *, take_over: bool = False) -> None:
        self.room = room
        self.question = question
        self.number = number
        self.took_over = take_over
        self.began = False
        """It is ours."""
        self.seen = False
        """The log was read up to it."""
        self.cancelled = False
        self.in_thread = False
        self.retry: float | None = math.inf
        """When it may be tried again, by the loop's clock, where the log does not show it."""
        self._resumed = take_over or question.interrupted
        self._steps: list[Step] = []
        self._made = 0  # steps
        self._calls: dict[str, Step] = {}  # of a model's tools, while they run
        self._said = 0  # messages of `say` and `ask`
        self._asked = 0
        self._status = ""
        self._repeating: asyncio.Task[None] | None = None
        self._unwanted = asyncio.Event()
        self._reply: Reply
        hops = hops_of(question.message) + 1
        self._meta: Data = {"hops": hops} if hops > 1 else {}

    def __repr__(self) -> str:
        return f"{self.room.name} {self.id}"

    @property
    def id(self) -> str:
        return attempt_id(self.question.seq, self.number)

    def end(self) -> None:
        """The reply is not wanted any more."""
        self._unwanted.set()

    async def run(self) -> None:
        name = self.room.name
        self._reply = reply = self.room.life.client.stream(
            name,
            reply_to=self.question.seq,
            id=self.id,
            replica=self.room.life.replica,
            take_over=self.took_over,
            meta=self._meta or None,
        )
        try:
            async with reply:
                try:
                    if reply.reason is not None or reply.seq < self.question.asked:
                        await self._pass_over()
                    else:
                        self.began = True
                        if reply.gen > 1 + TAKEOVERS:
                            logger.warning("reply given up, too many have left it room=%s id=%s", name, self.id)
                            await reply.finish("interrupted")
                        else:
                            await self._make()
                except BaseException:
                    reply.leave()
                    raise
        except Held:
            logger.debug("left to another replica room=%s id=%s", name, self.id)
            # The log tells how it goes on, where it was read from the beginning of the attempt on.
            self.retry = asyncio.get_running_loop().time() + RETRY_SECONDS
        except ChatError as error:
            self._on_refused(error)
        except Closed as error:
            logger.debug("left, the client is closed room=%s id=%s reason=%s", name, self.id, error)
        except Exception:  # nobody takes over what its author left while its connection lives
            logger.exception("reply failed room=%s id=%s", name, self.id)
            if reply.seq:
                with suppress(Closed):
                    await self.room.stop(reply.seq)
        finally:
            if self._repeating is not None:
                self._repeating.cancel()

    async def _pass_over(self) -> None:
        """The attempt was made already, or is one to answer what was asked before: the next one may be due."""
        reply = self._reply
        if reply.reason is None:
            await reply.finish("stopped")
        reply.leave()
        assert reply.reason is not None
        self.room.found(self.question, self.number, reply.seq, reply.reason)

    def _on_refused(self, error: ChatError) -> None:
        loop = asyncio.get_running_loop()
        if error.code is ErrorCode.CONFLICT:  # its author lives, or it has ended
            logger.debug("left room=%s id=%s reason=%s", self.room.name, self.id, error)
        elif error.code is ErrorCode.TOO_LARGE:  # so many grow already
            logger.warning("reply put off room=%s id=%s reason=%s", self.room.name, self.id, error)
            self.retry = loop.time() + RETRY_SECONDS
        else:
            logger.warning("reply not possible room=%s id=%s reason=%s", self.room.name, self.id, error)
            self.room.give_up(self.question)

    # The reply

    async def _make(self) -> None:
        """Let the handler speak until it ends, somebody stops it, or it is not wanted any more; then end the reply."""
        reply = self._reply
        work = asyncio.create_task(self._work())
        work.add_done_callback(_heed)
        over = asyncio.create_task(reply.over())
        unwanted = asyncio.create_task(self._unwanted.wait())
        try:
            await asyncio.wait({work, over, unwanted}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.cancelled = True
            over.cancel()
            unwanted.cancel()
            if not work.done():
                work.cancel()
                await asyncio.wait({work}, timeout=CANCEL_SECONDS)
                if not work.done():
                    logger.warning("handler goes on although it was stopped room=%s id=%s", self.room.name, self.id)
        if reply.stopped_by is not None or reply.reason == "stopped":
            self._tell_late_failure(work)
            await self._finish("stopped")
        elif unwanted.done() and not unwanted.cancelled():
            await self._finish("stopped")
        elif over.done() and not over.cancelled():  # another replica has it, or it has ended otherwise
            reply.leave()
            await reply.write("")  # raises what it is
        else:
            await self._conclude(work)

    def _tell_late_failure(self, work: asyncio.Task[None]) -> None:
        """What failed when the reply was stopped or lost already: the room need not know."""
        error = work.exception() if work.done() and not work.cancelled() else None
        if error is not None and not isinstance(error, Stopped | ChatError | Closed):
            logger.warning("handler failed as its reply ended room=%s id=%s", self.room.name, self.id, exc_info=error)

    async def _conclude(self, work: asyncio.Task[None]) -> None:
        """The handler has ended by itself."""
        error = asyncio.CancelledError("the handler was cancelled") if work.cancelled() else work.exception()
        if error is None:
            await self._finish("done")
            if not self._reply.length and not self._steps:
                await self.room.delete(self._reply.seq)  # it had nothing to say
        elif isinstance(error, Stopped):
            await self._finish("stopped")
        elif self._reply.lost:  # nor does what the handler makes of that concern the room
            self._tell_late_failure(work)
            self._reply.leave()
        else:
            logger.error("handler failed room=%s id=%s", self.room.name, self.id, exc_info=error)
            text = await self._sentence(error)
            try:
                await self._reply.write(("\n\n" if self._reply.length and text else "") + text)
            except (ChatError, Stopped) as refused:  # it is full, or was stopped meanwhile
                logger.debug("error not told room=%s id=%s reason=%s", self.room.name, self.id, refused)
            await self._finish("error")

    async def _sentence(self, error: BaseException) -> str:
        """What the room is told of it."""
        handler = self.room.life.agent.error
        if handler is None:
            # A provider's error has one that is fit for the room.
            sentence = getattr(error, "sentence", None)
            too_long = isinstance(error, ChatError) and error.code is ErrorCode.TOO_LARGE
            return sentence if isinstance(sentence, str) else TOO_LONG if too_long else SORRY
        try:
            async with asyncio.timeout(ERROR_SECONDS):
                return "".join([text_of(piece) async for piece in self._run(handler, self._message(), error)])
        except Exception:
            logger.exception("on_error failed room=%s id=%s", self.room.name, self.id)
            return SORRY

    async def _finish(self, reason: Reason) -> None:
        for step in self._steps:
            if step.state == "running":
                step.state = "error"
        if self._status:
            self._status = ""
            await self._tell_status()
        meta = with_steps(self._meta, self._steps) if self._steps else None
        await self._reply.finish(reason, meta=meta)

    # The handler

    async def _work(self) -> None:
        await self.room.reached(self._reply.seq)
        self.seen = True
        if not self.room.goes_on(self.question, self.number):
            self.end()
            await asyncio.Event().wait()  # until that is heard
        if self.question.rejected:
            await self.write(TOO_SOON)
            return
        agent, message = self.room.life.agent, self._message()
        handler = agent.resume if self._resumed and agent.resume is not None else self._handler(message)
        if handler is not None:
            async with aclosing(self._run(handler, message)) as said:
                async for piece in said:
                    await self.write(piece)

    def _handler(self, message: Message) -> Handler | None:
        # It was asked before whether it concerns the agent, with the level of then.
        addressed = self.room.addressed(self.question.message)
        return self.room.life.agent.handler_for(message, addressed=addressed, everything=True)

    def _message(self) -> Message:
        return message_of(self.question.message, self.room.life.names)

    async def _run(self, handler: Handler, message: Message, *more: object) -> AsyncGenerator[object, None]:
        context = Context(self, self.room.name, message, self.room.state, self.number, self._resumed)
        given: Context | ThreadContext = context
        if not runs_on_the_loop(handler):
            given = ThreadContext(context)
            self.in_thread = True
        try:
            threads, user = self.room.life.turns.threads, self.question.user
            async with aclosing(pieces(handler, threads, user, given, message, *more)) as said:
                async for piece in said:
                    yield piece
        except SystemExit as error:  # argparse raises it: the handler ends so, and the process has other replies
            raise RuntimeError(f"the handler wanted to exit with {error.code!r}") from error
        finally:
            if isinstance(given, ThreadContext):
                given.end()

    # Stage

    async def write(self, piece: object) -> None:
        if isinstance(piece, ToolCall):
            self._calls[piece.id] = await self.begin_step(piece.name, piece.arguments)
        elif isinstance(piece, ToolResult):
            step = self._calls.pop(piece.id, None)
            if step is not None:
                step.state, step.output = "error" if piece.error else "done", piece.content
                await self.end_step(step)
        else:
            await self._reply.write(text_of(piece))

    async def say(self, text: str) -> int:
        self._said += 1
        id = f"say:{self.question.seq}:{self.number}:{self._said}"
        ack = await self.room.life.client.send(
            self.room.name, text, reply_to=self.question.seq, meta=self._meta or None, mark=False, id=id
        )
        return ack.seq

    async def ask(self, text: str, seconds: float) -> Message:
        self._asked += 1
        room, question, place = self.room, self.question, (self.number, self._asked)
        id = ask_id(question.seq, *place)
        asked = await room.life.client.send(
            room.name, text, reply_to=question.seq, mentions=[question.user], meta=self._meta or None, mark=False, id=id
        )
        until = asyncio.get_running_loop().time() + seconds
        try:
            async with asyncio.timeout_at(until) as limit:
                with room.life.turns.resting(limit, question.user):
                    await room.until(lambda: place in question.answers)
        except TimeoutError:
            taken_back = await room.life.client.delete(room.name, asked.seq, id=f"{id}:gone")
            await room.reached(taken_back.seq)
            if place not in question.answers:  # nor did it come at the last moment
                early = asyncio.get_running_loop().time() < until
                why = "too many others waited for theirs" if early else f"no answer within {seconds:g} s"
                raise TimeoutError(why) from None
        return message_of(question.answers[place], room.life.names)

    async def history(self, tokens: int) -> list[Data]:
        client, room = self.room.life.client, self.room.name

        async def page(before: int | None) -> Data:
            return await client.history(room, before=before, limit=PAGE)

        return await provider_messages(page, self.room.life.user, self.question.seq, tokens, self._reply.seq)

    async def typing(self, on: bool) -> None:
        await self.room.life.client.typing(self.room.name, on)

    async def status(self, text: str) -> None:
        self._status = short(text, STATUS_CHARS)
        await self._tell_status()
        self._repeat()

    async def begin_step(self, name: str, input: str) -> Step:
        self._made += 1
        step = Step(str(self._made), name, input)
        self._steps.append(step)
        del self._steps[:-STEPS]
        await self._tell_step(step)
        self._repeat()
        return step

    async def end_step(self, step: Step) -> None:
        await self._tell_step(step)

    async def _tell_status(self) -> None:
        await self.room.life.client.status(self.room.name, self._status, seq=self._reply.seq)

    async def _tell_step(self, step: Step) -> None:
        await self.room.life.client.step(self.room.name, self._reply.seq, **step.told())

    def _repeat(self) -> None:
        if self._repeating is None:
            self._repeating = asyncio.create_task(self._tell_again())

    async def _tell_again(self) -> None:
        while True:
            await asyncio.sleep(REPEAT_SECONDS)
            if self._status:
                await self._tell_status()
            for step in self._steps:
                if step.state == "running":
                    await self._tell_step(step)


def _heed(work: asyncio.Task[None]) -> None:
    """How it ended is told by who waits for it, if anybody does."""
    if not work.cancelled():
        work.exception()
