"""A message that grows by the body of one request, as `curl -T -` sends what is piped into it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

from tornado_chat.verify.address import ServerAddress
from tornado_chat.verify.endings import Broken, Refused
from tornado_chat.verify.findings import Finding
from tornado_chat.verify.growth import Growth
from tornado_chat.verify.http_connection import ANSWER_SECONDS, HTTPConnection, Request
from tornado_chat.verify.messages import TRANSIENT_STATUSES
from tornado_chat.verify.posts import signed
from tornado_chat.verify.responses import Answer, refusal

PIECE_BYTES = (1, 7, 40, 40, 700)
PAUSES = (0.02, 0.1, 0.1, 0.5)
AGAIN_SECONDS = 0.5
CUTS, DEATHS = 0.15, 0.1
"""Of all bodies so many break off in the middle: to be sent again, and for ever."""

Report = Callable[[Finding, Growth], None]


class Pouring:
    """One text, sent until it is answered or has ended; `run` is its task. Nothing but the answer is heard."""

    def __init__(
        self,
        growth: Growth,
        address: ServerAddress,
        token: str | None,
        reply_to: int | None,
        dice: random.Random,
        report: Report,
        *,
        cuts: bool,
        deaths: bool,
    ) -> None:
        """`cuts`, `deaths`: some break off, to be sent again or for ever."""
        self.growth = growth
        self.ending = False  # all the rest at once
        self._address = address
        self._token = token
        self._query = f"?reply_to={reply_to}" if reply_to is not None else ""
        self._dice = dice
        self._report = report
        self._deaths = DEATHS if deaths else 0.0
        self._breaks = self._deaths + (CUTS if cuts else 0.0)

    async def run(self) -> None:
        growth = self.growth
        growth.may_end.add(("done", len(growth.text)))
        while not growth.gone and growth.end is None:
            wait = AGAIN_SECONDS
            try:
                answer = await self._pour()
                if answer is None:
                    continue
                if answer.head.status in (200, 201):
                    self._take(answer)
                    return
                raise refusal(answer)
            except Refused as error:
                if error.code == "conflict":
                    return  # it has ended otherwise, which its readers are told
                if error.status not in TRANSIENT_STATUSES:
                    self._report(Finding("error", f"{growth.id}: a body was refused: {error}"), growth)
                    return
                wait = min(error.retry_after or AGAIN_SECONDS, ANSWER_SECONDS)
            except Broken as error:
                self._report(Finding("protocol", str(error)), growth)
                return
            except OSError:  # TimeoutError is one
                growth.leave(time.monotonic())
            await asyncio.sleep(wait)

    async def _pour(self) -> Answer | None:
        """The answer; None if the body was broken off."""
        growth, dice = self.growth, self._dice
        headers = {"Content-Type": "text/plain; charset=utf-8", "Idempotency-Key": growth.id}
        path = f"/rooms/{growth.room}/messages{self._query}"
        data = growth.text.encode()
        fate = dice.random()
        breaks_off = dice.randint(0, len(data)) if fate < self._breaks else None
        connection = await HTTPConnection.open(self._address)
        try:
            await connection.begin_body(Request("POST", path, signed(self._token, **headers)))
            sent, pause, most = 0, dice.choice(PAUSES), dice.choice(PIECE_BYTES)
            while sent < len(data) and growth.end is None:
                end = len(data) if self.ending else min(len(data), sent + dice.randint(1, most))
                if breaks_off is not None and end >= breaks_off:
                    if fate < self._deaths:
                        growth.go(time.monotonic())
                    return None
                growth.said = max(growth.said, len(data[:end].decode(errors="ignore")))
                await connection.send_chunk(data[sent:end])
                sent = end
                if not self.ending:
                    await asyncio.sleep(pause)
            if rest := rest_of_character(data, sent):  # it has ended otherwise
                growth.said = max(growth.said, len(data[: sent + len(rest)].decode()))
                await connection.send_chunk(rest)
            async with asyncio.timeout(ANSWER_SECONDS):
                return await connection.end_body()
        finally:
            growth.leave(time.monotonic())
            await connection.hang_up()

    def _take(self, answer: Answer) -> None:
        growth, said = self.growth, answer.json()
        seq = said.get("seq") if isinstance(said, dict) else None
        if type(seq) is not int or said.get("id") != growth.id or seq != (growth.seq or seq):
            raise Broken(f"a body of {growth.id} (seq {growth.seq or 'unknown'}) is answered with {str(said)[:200]}")
        growth.seq = seq
        growth.finish = "done", len(growth.text)
        growth.come_back(time.monotonic())


def rest_of_character(data: bytes, at: int) -> bytes:
    """What belongs to the character within which `data` is cut at `at`; a body that ends there is refused."""
    end = at
    while end < len(data) and data[end] & 0xC0 == 0x80:
        end += 1
    return data[at:end]
