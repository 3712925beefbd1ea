"""Commands by `POST /v1/commands`, for transports that only listen."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from itertools import islice

from tornado_chat.client.ends import LONGEST_WAIT, Lost, Refused, error_in, refused
from tornado_chat.client.http import Answer, Connection
from tornado_chat.client.transport import Listener, Target
from tornado_chat.errors import ChatError
from tornado_chat.wire.codec import JSON, Codec
from tornado_chat.wire.events import Data

log = logging.getLogger(__name__)

TOO_LARGE = 413
COMMANDS = 64
"""Of one request: no server takes more."""
BODY_BYTES = 512 << 10
"""Of one request that has several commands; a server takes 1 MiB."""
ANSWER_BYTES = COMMANDS * (2 << 20)
"""A page of history has about 1 MiB."""
ANSWER_SECONDS = 40.0
"""A server gives itself 30."""
ATTEMPTS = 3
"""Requests in a row that are not answered before the transport is given up."""
PAUSE = 0.2  # s, twice as long after the second


class Posts:
    """The commands that wait for their request, and the one request that is under way.

    One at a time: the next could overtake it on another connection, and be carried out first. One that was not answered
    is sent again as it was, before all that came later. The ids of its commands make that harmless.
    """

    __slots__ = ("_codec", "_connection", "_target", "_waiting", "_written")

    def __init__(self, target: Target) -> None:
        self._target = target
        self._codec = target.codec
        self._connection = Connection(target)
        self._waiting: deque[tuple[bytes, ...]] = deque()
        self._written = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def write(self, *payloads: bytes) -> None:
        self._waiting.append(payloads)
        self._written.set()

    async def run(self, listener: Listener) -> None:
        """Send what is written, pass on the answers; raises Lost or Refused."""
        while True:
            await self._written.wait()
            count = self._count()
            batch = [payload for payloads in islice(self._waiting, count) for payload in payloads]
            answers = await self._ask(batch)
            for _ in range(count):
                self._waiting.popleft()
            if not self._waiting:
                self._written.clear()
            for payload, answer in zip(batch, answers, strict=True):
                if answer is not None:
                    await listener(answer if "id" in answer else self._named(answer, payload))

    def _count(self) -> int:
        """How many of those that wait go into the next request."""
        count = commands = size = 0
        for payloads in self._waiting:
            commands += len(payloads)
            size += sum(map(len, payloads))
            if count and (commands > COMMANDS or size > BODY_BYTES):
                break
            count += 1
        return count

    def use(self, target: Target) -> None:
        """Come as another from the next request on."""
        self._target = self._connection.target = target

    async def close(self) -> None:
        await self._connection.close()

    async def _ask(self, batch: list[bytes]) -> list[Data | None]:
        failures = 0
        while True:
            try:
                answer = await self._post(batch)
                if answer.status == 200:
                    return self._answers(answer, len(batch))
                end = refused(self._target.where, answer.status, answer.headers, answer.body, answer.text)
                error = error_in(answer.body)
                if answer.status == TOO_LARGE and error is not None and len(batch) == 1:
                    return [{"type": "error", **error}]
                if isinstance(end, Refused) or error is None:
                    raise end
                # It is too much for the server at present, which says so for all of them.
                wait = PAUSE if end.wait is None else min(end.wait, LONGEST_WAIT)
            except Lost as lost:
                failures += 1
                if failures == ATTEMPTS:
                    raise
                wait = PAUSE * failures
                log.info("commands not answered, sent again count=%d reason=%s", len(batch), lost)
            await asyncio.sleep(wait)

    async def _post(self, batch: list[bytes]) -> Answer:
        return await self._connection.ask(
            "POST",
            self._target.path("/v1/commands"),
            {"Accept": _type(self._codec), "Content-Type": _type(self._codec)},
            _array(self._codec, batch),
            seconds=ANSWER_SECONDS,
            max_bytes=ANSWER_BYTES,
        )

    def _named(self, answer: Data, payload: bytes) -> Data:
        """The answer to a command that was not even read, with the command's id."""
        command = self._codec.decode(payload)
        assert isinstance(command, dict)
        return {**answer, "id": command["id"]} if "id" in command else answer

    def _answers(self, answer: Answer, count: int) -> list[Data | None]:
        codec = self._codec if answer.headers.get("Content-Type", "").startswith(_type(self._codec)) else JSON
        try:
            answers = codec.decode(answer.body)
        except ChatError as error:
            raise Refused(0, f"{self._target.where} does not answer commands: {error.message}", suspect=True) from None
        if not isinstance(answers, list) or len(answers) != count:
            raise Refused(0, f"{self._target.where} does not answer each command")
        return answers


def _type(codec: Codec) -> str:
    return f"application/{codec.name}"


def _array(codec: Codec, items: list[bytes]) -> bytes:
    """An array of up to 64 encoded `items`."""
    if codec is JSON:
        return b"[%b]" % b",".join(items)
    return b"\xdc%b%b" % (len(items).to_bytes(2, "big"), b"".join(items))
