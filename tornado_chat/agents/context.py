"""What a handler does in its room: the `ctx` that it is given, and the same for handlers that run in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol, TypeVar

from tornado_chat.agents.message import Message
from tornado_chat.agents.steps import Step
from tornado_chat.wire.events import Data

T = TypeVar("T")

ASK_SECONDS = 300.0
"""How long `ask` waits for an answer, unless told otherwise."""


class Stage(Protocol):
    """Where a handler acts."""

    cancelled: bool

    async def write(self, piece: object) -> None: ...

    async def say(self, text: str) -> int: ...

    async def ask(self, text: str, seconds: float) -> Message: ...

    async def history(self, tokens: int) -> list[Data]: ...

    async def typing(self, on: bool) -> None: ...

    async def status(self, text: str) -> None: ...

    async def begin_step(self, name: str, input: str) -> Step: ...

    async def end_step(self, step: Step) -> None: ...


class Context:
    """For one call of a handler. `state` is a dict of the room's own, in this process, for as long as it runs.

    `attempt` is the number of the attempt to answer; `resumed`: an earlier one was cut off, perhaps in another process.
    """

    def __init__(
        self, stage: Stage, room: str, message: Message | None, state: dict[str, Any], attempt: int, resumed: bool
    ) -> None:
        self.room = room
        self.message = message
        self.state = state
        self.attempt = attempt
        self.resumed = resumed
        self._stage = stage

    @property
    def cancelled(self) -> bool:
        """Whether the reply was stopped, or is not wanted any more."""
        return self._stage.cancelled

    async def history(self, tokens: int = 8000) -> list[Data]:
        """What was said up to the message, as a provider takes it: `[{"role", "content", "name"?}]`, oldest first.

        The newest messages that are about `tokens` together, the message itself in any case; what the agent has said
        has the role `assistant`.
        """
        return await self._stage.history(tokens)

    async def reply(self, text: str) -> None:
        """Add `text` to the reply; as `yield` does."""
        await self._stage.write(text)

    async def stream(self, pieces: AsyncIterable[object]) -> None:
        """Add to the reply what comes, as `yield` does with each; a stop closes `pieces`."""
        try:
            async for piece in pieces:
                await self._stage.write(piece)
        finally:
            close = getattr(pieces, "aclose", None)
            if close is not None:
                await close()

    async def say(self, text: str) -> int:
        """Say `text` in a message of its own; its seq. The same call after a take-over says it no second time."""
        return await self._stage.say(text)

    async def ask(self, text: str, *, seconds: float = ASK_SECONDS) -> Message:
        """Ask the person `text`, in a message of its own; their next message in the room, which is then no question.

        TimeoutError: none came within `seconds`, and `text` was taken back.
        """
        return await self._stage.ask(text, seconds)

    async def typing(self, on: bool = True) -> None:
        """Let the room know that something is written; lapses after 6 s."""
        await self._stage.typing(on)

    async def status(self, text: str) -> None:
        """Let the room know what is being done, until it is something else, "", or the reply ends."""
        await self._stage.status(text)

    @asynccontextmanager
    async def step(self, name: str, input: str = "") -> AsyncIterator[Step]:
        """The run of a tool: shown while it runs, and kept with the reply. `step.output` may be set.

        An exception ends it as `error`, and goes on.
        """
        step = await self._stage.begin_step(name, input)
        try:
            yield step
        except BaseException as error:
            step.state = "error"
            step.output = step.output or ("stopped" if self.cancelled else type(error).__name__)
            raise
        else:
            step.state = "done"
        finally:
            await self._stage.end_step(step)


class ThreadContext:
    """The context of a handler that runs in a thread: the same, but that its calls wait there for what they do.

    After a stop they raise CancelledError (of concurrent.futures).
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._calls: set[Future[Any]] = set()
        self._ended = False

    @property
    def room(self) -> str:
        return self._context.room

    @property
    def message(self) -> Message | None:
        return self._context.message

    @property
    def state(self) -> dict[str, Any]:
        return self._context.state

    @property
    def attempt(self) -> int:
        return self._context.attempt

    @property
    def resumed(self) -> bool:
        return self._context.resumed

    @property
    def cancelled(self) -> bool:
        return self._context.cancelled

    def history(self, tokens: int = 8000) -> list[Data]:
        return self._call(self._context.history(tokens))

    def reply(self, text: str) -> None:
        self._call(self._context.reply(text))

    def say(self, text: str) -> int:
        return self._call(self._context.say(text))

    def ask(self, text: str, *, seconds: float = ASK_SECONDS) -> Message:
        return self._call(self._context.ask(text, seconds=seconds))

    def typing(self, on: bool = True) -> None:
        self._call(self._context.typing(on))

    def status(self, text: str) -> None:
        self._call(self._context.status(text))

    @contextmanager
    def step(self, name: str, input: str = "") -> Iterator[Step]:
        step = self._context.step(name, input)
        made = self._call(step.__aenter__())
        try:
            yield made
        except BaseException as error:
            self._call(step.__aexit__(type(error), error, error.__traceback__))
            raise
        else:
            self._call(step.__aexit__(None, None, None))

    def end(self) -> None:
        """On the loop: what waits, and what is called from now on, is cancelled."""
        self._ended = True
        for call in list(self._calls):
            call.cancel()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        call = asyncio.run_coroutine_threadsafe(work, self._loop)
        self._calls.add(call)
        try:
            if self._ended:
                call.cancel()
            return call.result()
        finally:
            self._calls.discard(call)
