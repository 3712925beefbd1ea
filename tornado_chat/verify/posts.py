"""What a device says over HTTP: commands in requests, one after another."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Coroutine
from typing import NamedTuple, NoReturn

from tornado_chat.verify.codecs import JSON, MSGPACK, Data
from tornado_chat.verify.endings import Broken, Refused
from tornado_chat.verify.findings import Finding
from tornado_chat.verify.http_connection import HTTPClient, Request
from tornado_chat.verify.messages import TRANSIENT_STATUSES
from tornado_chat.verify.responses import Answer, refusal
from tornado_chat.verify.rest import request_of, said_by
from tornado_chat.verify.transport import Listener, Transport

MAX_COMMANDS = 64
"""Of one request."""
MOST_PAUSE = 30.0
"""Seconds that are waited at most before a request is repeated, whatever the server asks for."""
REPEAT_SECONDS = 0.5
REFUSED_SECONDS = 2.0
_UNANSWERED = ("typing", "status", "step", "read", "append")
"""What a WebSocket does not answer, sent without an id."""


def signed(token: str | None, **headers: str) -> dict[str, str]:
    """The headers of a request of somebody with this token."""
    return headers | ({"Authorization": f"Bearer {token}"} if token else {})


class _Group(NamedTuple):
    """Commands that belong into one request."""

    commands: list[Data]
    done: Callable[[bool], None] | None


class Posts:
    """A device's commands on their way, in order. A request whose answer is lost is repeated on another connection."""

    def __init__(self, device: Listener, transport: Transport) -> None:
        self._device = device
        self._transport = transport
        self._client = HTTPClient(device.address)
        self._queue: deque[Data | _Group] = deque()
        self._some = asyncio.Event()
        self._cut: tuple[Data, float] | None = None  # the next request's command, and the part that is written of it

    def send(self, command: Data) -> None:
        self._queue.append(command)
        self._some.set()

    def send_together(self, commands: list[Data], done: Callable[[bool], None] | None) -> None:
        """In one request; then `done` is told whether no answer was an error. Not if the answer is lost."""
        self._queue.append(_Group(commands, done))
        self._some.set()

    def cut(self, command: Data, part: float) -> None:
        """Break the request that carries `command`: in its middle, or when it is whole and not answered."""
        self._cut = command, 1.0 if part > 0.4 else part
        self._some.set()

    async def beside(self, hearing: Coroutine[None, None, NoReturn]) -> NoReturn:
        """Send while `hearing` runs; raises what ends one of the two, when both have ended."""
        # No TaskGroup: one that fails at the moment at which it is cancelled forgets that, and a device would go on.
        tasks = [asyncio.create_task(hearing), asyncio.create_task(self._run())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        ends = [end for task in tasks if not task.cancelled() and (end := task.exception()) is not None]
        raise ends[0]

    async def _run(self) -> NoReturn:
        try:
            while True:
                await self._some.wait()
                wait = await self._post()
                if wait is not None:
                    await asyncio.sleep(min(wait, MOST_PAUSE))
                    self._queue.clear()
                    if self._cut is None:
                        self._some.clear()
                    self._device.lose_answers()
        finally:
            await self._client.hang_up()

    async def _post(self) -> float | None:
        """One request. None if it was answered, else after how many seconds all that has no answer is sent again."""
        device = self._device
        device.ledger.counts["posts"] += 1
        try:
            if self._cut is not None:
                (command, part), self._cut = self._cut, None
                await (await self._client.connect()).begin_and_cut(self._request([command]), part)
                return 0.0
            batch, done = self._batch()
            if len(batch) > 1 or done is not None or not await self._ask_alone(batch[0]):
                sound = self._take(batch, await self._client.ask(self._request(batch)))
                if done is not None:
                    done(sound)
        except Refused as error:
            device.ledger.counts["refused"] += 1
            if error.status in TRANSIENT_STATUSES:
                return error.retry_after if error.retry_after is not None else REPEAT_SECONDS
            device.violation(Finding("error", f"commands like others before were refused: {error}"))
            return REFUSED_SECONDS
        except OSError:  # TimeoutError is one
            return random.uniform(0, REPEAT_SECONDS)
        return None

    def _batch(self) -> tuple[list[Data], Callable[[bool], None] | None]:
        """What goes into one request."""
        most, done = self._device.dice.choice((1, 2, MAX_COMMANDS)), None
        batch: list[Data] = []
        while self._queue and len(batch) < most:
            first = self._queue[0]
            if isinstance(first, _Group):
                if not batch:
                    self._queue.popleft()
                    batch, done = first.commands, first.done
                break
            batch.append(first)
            self._queue.popleft()
        if not self._queue:
            self._some.clear()
        return batch, done

    async def _ask_alone(self, command: Data) -> bool:
        """By the address that `command` has, half the time; whether it was."""
        dice = self._device.dice
        request = request_of(command, id_in_header=dice.random() < 0.5)
        if request is None or dice.random() < 0.5:
            return False
        headers = signed(self._device.token, **request.headers)
        said = said_by(command, await self._client.ask(request._replace(headers=headers)))
        if said is not None:
            self._device.take(self._transport, said)
        return True

    # POST /v1/commands

    def _request(self, batch: list[Data]) -> Request:
        codec, dice = self._device.offer.codec, self._device.dice
        headers = signed(self._device.token, **{"Content-Type": codec.media_type})
        if dice.random() < 0.05:
            headers["Expect"] = "100-continue"
        alone = len(batch) == 1 and dice.random() < 0.5
        return Request("POST", "/commands", headers, codec.encode(batch[0] if alone else batch))

    def _take(self, batch: list[Data], answer: Answer) -> bool:
        """Whether no command was answered with an error."""
        if answer.head.status != 200:
            raise refusal(answer)
        codec = {codec.media_type: codec for codec in (JSON, MSGPACK)}.get(answer.head.media_type)
        if codec is None:
            raise Broken(f"an answer to commands with Content-Type: {answer.head.headers.get('content-type')}")
        answers = codec.decode(answer.body)
        if not isinstance(answers, list) or len(answers) != len(batch):
            raise Broken(f"an answer to {len(batch)} commands that is no array of as many: {str(answers)[:200]}")
        for command, said in zip(batch, answers, strict=True):
            if said is None and command["type"] in _UNANSWERED and "id" not in command:
                continue
            if not isinstance(said, dict) or said.get("id") != command.get("id"):
                raise Broken(f"the answer to {command.get('id')} of {command['type']} is {str(said)[:200]}")
            if said.get("type") not in _ANSWERS[command["type"]]:
                raise Broken(f"the answer to a {command['type']} is of the type {said.get('type')!r}")
            self._device.take(self._transport, said)
        return not any(isinstance(said, dict) and said["type"] == "error" for said in answers)


_ANSWERS = {
    "begin": ("ack", "error"),
    "append": ("error",),
    "finish": ("ack", "error"),
    "stop": ("ack", "error"),
    "fetch": ("stream", "error"),
    "send": ("ack", "error"),
    "edit": ("ack", "error"),
    "delete": ("ack", "error"),
    "react": ("ack", "error"),
    "read": ("ack", "error"),
    "follow": ("ack", "error"),
    "unfollow": ("ack", "error"),
    "invite": ("ack", "error"),
    "typing": ("error",),
    "status": ("error",),
    "step": ("error",),
    "history": ("history", "error"),
    "presence": ("presence", "error"),
}
"""The types that may answer each command."""
