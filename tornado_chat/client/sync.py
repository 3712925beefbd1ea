"""The client without asyncio: for scripts, notebooks, Streamlit, and whatever else just calls.

    with Chat("http://127.0.0.1:8080", name="alice") as chat:
        lobby = chat.join("lobby")
        lobby.send("hello")
        for piece in chat.ask("demo", "hello"):
            print(piece, end="")

It lives in a thread of its own, with all others of the process (`client/background.py`), and holds what comes: the
newest messages of each room that is joined, and the answers. So nothing is lost where the caller goes away for a
while, or is run again from the top, as Streamlit does; and it works where a loop runs already, as in a notebook.

Any thread may call anything. Each call has a limit, after which it raises TimeoutError; KeyboardInterrupt ends it, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from tornado_chat.client import answers
from tornado_chat.client.answers import SILENCE_SECONDS
from tornado_chat.client.background import Background, enter, leave
from tornado_chat.client.client import Ack, Client
from tornado_chat.client.ends import Closed
from tornado_chat.client.kept import KeptClient, KeptRoom
from tornado_chat.client.transport import Choice
from tornado_chat.errors import Reason
from tornado_chat.wire.events import Data

__all__ = ["Answer", "Chat", "RoomView"]

log = logging.getLogger(__name__)

T = TypeVar("T")
_Changing = KeptRoom | answers.Answer

GRACE_SECONDS = 10.0
"""For the thread to take up a call and to answer it, beside the call's own limit."""

LOOK_SECONDS = 5.0
"""How long a wait goes on before it is looked whether the thread is there still."""


class Chat:
    """A client for who has no loop; use it as a context manager, or `close` it. See Client for the parameters.

    `token` is a JWT, or a function that fetches one. A call that is not answered within `timeout` seconds raises
    TimeoutError. One that is not closed is closed when it is collected, or with the interpreter.

    Closed: it was closed, or opened before the process was forked, or (Refused) the server will not have it.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | Callable[[], str] | None = None,
        name: str | None = None,
        transport: Choice = "auto",
        timeout: float = 30.0,
    ) -> None:
        self._timeout = timeout
        make = partial(
            Client, url, token=_fetching(token), name=name, transport=transport, timeout=timeout, notify=log.info
        )
        self._core = core = KeptClient(make)
        self._background = background = enter(core, core.close)
        self._collected = weakref.finalize(self, _end, core, background)
        self._collected.atexit = False  # the thread ends in good order by itself
        try:
            self._call(core.open())
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Chat:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Calls that wait, in whichever thread, raise Closed. What came of rooms and answers stays readable."""
        if self._collected.detach() is None or not self._background.is_ours:
            return
        with contextlib.suppress(Closed):  # the thread has ended
            self._background.call(self._core.close(), GRACE_SECONDS)
        leave(self._core, self._background, wait=True)

    @property
    def user(self) -> str:
        """Who one is; "" before the first answer of the server."""
        return str(self._core.client.welcome.get("user", ""))

    def join(self, room: str, *, last: int = 50) -> RoomView:
        """The room, from now on held with its `last` messages (200 at most) and all that come.

        A room that is joined already is there as it is, so a script that is run again may say it again.
        """
        return RoomView(self, self._call(self._core.join(room, last)))

    def leave(self, room: str) -> None:
        self._call(self._core.leave(room))

    def send(
        self,
        room: str,
        text: str,
        *,
        reply_to: int | None = None,
        meta: Data | None = None,
        mentions: Sequence[str] | None = None,
        id: str | None = None,
    ) -> Ack:
        """See Client.send. The room need not be joined."""
        sending = self._core.client.send(room, text, reply_to=reply_to, meta=meta, mentions=mentions, id=id)
        return self._call(sending)

    def history(self, room: str, *, before: int | None = None, limit: int | None = None) -> Data:
        """See Client.history: a page of messages, and whether there are older ones (`more`)."""
        return self._call(self._core.client.history(room, before=before, limit=limit))

    def ask(
        self,
        agent: str,
        text: str,
        *,
        room: str | None = None,
        id: str | None = None,
        silence: float = SILENCE_SECONDS,
    ) -> Answer:
        """Ask an agent; returns when the question is there. See Client.ask."""
        return Answer(self, self._call(self._core.client.ask(agent, text, room=room, id=id, silence=silence)))

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` returns, in the thread; it has the client's own limit."""
        background = self._background
        refusal = None
        if not background.is_ours:
            refusal = "the client was opened before this process was forked: open another one here"
        elif not self._collected.alive:
            refusal = "the client was closed"
        if refusal is not None:
            work.close()
            raise Closed(refusal)
        if background.is_here:
            work.close()
            raise RuntimeError("the client's own thread cannot wait for itself: call from another one")
        return background.call(work, 2 * self._timeout + GRACE_SECONDS)

    def _wait(self, of: _Changing, version: int, seconds: float) -> int:
        """Until `of` has another version, or has ended, or so long; its version."""
        return self._call(_within(of, version, seconds))


class RoomView:
    """A room that is joined: a view of what the client holds, of which there may be several."""

    def __init__(self, chat: Chat, held: KeptRoom) -> None:
        self._chat = chat
        self._held = held

    @property
    def name(self) -> str:
        return self._held.name

    @property
    def messages(self) -> list[Data]:
        """As they are now, oldest first, each as `history` gives it; those that grow with their text so far.

        The newest 1,000 are held. The list is the caller's; the messages are not to be changed.
        """
        with self._held.lock:
            return self._held.messages.now()

    @property
    def version(self) -> int:
        """Grows with every change of `messages`: who looks from time to time need not compare them."""
        return self._held.version

    def wait(self, version: int, timeout: float | None = None) -> int:
        """Wait until `version` is another, `timeout` seconds at most (None: without a limit); the version then.

        ChatError: the server does not let one into the room any more.
        """
        return _waited(self._chat, self._held, version, timeout)

    def send(
        self,
        text: str,
        *,
        reply_to: int | None = None,
        meta: Data | None = None,
        mentions: Sequence[str] | None = None,
        id: str | None = None,
    ) -> Ack:
        """See Client.send."""
        return self._chat.send(self.name, text, reply_to=reply_to, meta=meta, mentions=mentions, id=id)

    def history(self, *, before: int | None = None, limit: int | None = None) -> Data:
        """See Client.history."""
        return self._chat.history(self.name, before=before, limit=limit)


class Answer:
    """The answer to one question; it grows whether or not somebody iterates. See Client.ask."""

    def __init__(self, chat: Chat, answer: answers.Answer) -> None:
        self._chat = chat
        self._answer = answer

    def __iter__(self) -> Iterator[str]:
        """The text in pieces, from its first word on, however often it is asked for; then raises what `whole` does.

        A reply that is given again in other words comes wholly, after an empty line.
        """
        pieces = answers.Pieces(self._answer)
        while True:
            version = self._answer.version
            piece = pieces.next()
            if piece:
                yield piece
            elif self._answer.failure is not None:
                raise self._answer.failure
            elif self._answer.ended:
                return
            else:
                self.wait(version)

    def whole(self) -> str:
        """Wait for the end; the text: as far as it came, if somebody has stopped it.

        Failed: the agent could not answer. TimeoutError: there was no sign of it. ChatError: the room was lost.
        """
        for _ in self:
            pass
        return self.text

    def wait(self, version: int, timeout: float | None = None) -> int:
        """Wait until `version` is another, or the answer has ended, `timeout` seconds at most; the version then."""
        return _waited(self._chat, self._answer, version, timeout)

    def stop(self) -> None:
        """End it, as soon as it has begun; returns when it has ended. It keeps what it has said."""
        self._chat._call(_in_time(self._answer.stop(), self._chat._timeout, f"stop of the answer in {self.room}"))

    @property
    def room(self) -> str:
        return self._answer.room

    @property
    def id(self) -> str:
        """Of the question; asked again with it, also by another process, the answer is the same one."""
        return self._answer.id

    @property
    def question(self) -> int:
        """The seq of the question."""
        return self._answer.question

    @property
    def reply(self) -> int:
        """The seq of the agent's message; 0: it has not begun."""
        return self._answer.reply

    @property
    def text(self) -> str:
        """What it has said so far."""
        return self._answer.text

    @property
    def meta(self) -> Data:
        """Of the reply: `steps`, its tools' runs, when it has ended."""
        return self._answer.meta

    @property
    def version(self) -> int:
        """Grows with every change."""
        return self._answer.version

    @property
    def reason(self) -> Reason | None:
        """Why it has ended: `done`, `stopped`, `error` or `interrupted`; None: it has not, or is none."""
        return self._answer.reason

    @property
    def ended(self) -> bool:
        return self._answer.ended


def _end(core: KeptClient, background: Background) -> None:
    """Nobody has the Chat any more: called wherever it is collected, so nothing may wait here."""
    if background.is_ours:
        background.tell(partial(core.end, partial(leave, core, background, wait=False)))


def _fetching(token: str | Callable[[], str] | None) -> str | Callable[[], Awaitable[str]] | None:
    """A function that fetches a token may wait, so it has a thread."""
    if not callable(token):
        return token
    fetch = token
    return lambda: asyncio.to_thread(fetch)


async def _in_time(work: Awaitable[T], seconds: float, what: str) -> T:
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        raise TimeoutError(f"{what}: not within {seconds:g} s") from None


async def _within(of: _Changing, version: int, seconds: float) -> int:
    try:
        async with asyncio.timeout(seconds):
            return await of.change(version)
    except TimeoutError:
        return of.version


def _waited(chat: Chat, of: _Changing, version: int, timeout: float | None) -> int:
    """In portions, so that it is noticed when the thread is not there any more."""
    left = timeout
    while of.version == version:
        portion = LOOK_SECONDS if left is None else min(left, LOOK_SECONDS)
        chat._wait(of, version, portion)
        if left is not None:
            left -= portion
            if left <= 0:
                break
        if isinstance(of, answers.Answer) and of.ended:
            break
    return of.version
