"""A device's conversation over HTTP: it asks for what it has not, again and again, and speaks by requests beside it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from tornado_chat.verify.codecs import JSON, Data
from tornado_chat.verify.endings import ABNORMAL, NORMAL, Broken, Ended
from tornado_chat.verify.findings import Finding
from tornado_chat.verify.http_connection import ANSWER_SECONDS, HTTPClient, Request
from tornado_chat.verify.messages import ERRORS, EVENTS, OWN, malformed_page, malformed_poll, malformed_session
from tornado_chat.verify.posts import Posts, signed
from tornado_chat.verify.responses import Answer, refusal
from tornado_chat.verify.transport import Listener
from tornado_chat.verify.witness import Witness

WAITS = (0, 1, 5, 25, 55)
"""Seconds that a long poll may wait."""
LIMITS = (3, 100, 500, 500)
"""Events of a page at most."""
LIMIT = 100
"""The same, where nothing is said."""
PAUSES = (0.05, 0.5, 1.0)
"""Seconds until the next pages of who does not wait and has everything."""
FAILURES = 3
"""Polls in a row without an answer, after which the way is given up."""


class PollTransport:
    """Polls one after another. Nothing is kept for it, so that a lost answer is asked for again by the same cursors.

    `waits`: a long poll for all rooms at once, or for the only one; else a page of each room and a pause.
    """

    prompt = False
    one_worker = False

    def __init__(self, device: Listener, *, waits: bool) -> None:
        self._device = device
        self._waits = waits
        self._posts = Posts(device, self)
        self._client = HTTPClient(device.address, small=device.offer.small)
        self._closed = False  # by us

    # What the device does.

    def begin(self) -> None:
        """The rooms are in each request."""

    def send(self, command: Data) -> None:
        self._posts.send(command)

    def send_together(self, commands: list[Data], done: Callable[[bool], None] | None) -> None:
        self._posts.send_together(commands, done)

    def join_again(self, room: str, after: int | None) -> None:
        """By the next request; the one that is on its way is given up."""
        self._device.ask(room, after)
        self._client.cut()

    def leave(self, room: str) -> bool:
        return False

    def cut(self, command: Data | None, part: float) -> bool:
        """A command's request, or a poll that may have been answered."""
        if command is not None:
            self._posts.cut(command, part)
        else:
            self._client.cut()
        return False

    def close(self) -> None:
        self._closed = True
        self._client.cut()

    # What it hears.

    async def run(self) -> NoReturn:
        try:
            await self._sign_in()
            await self._posts.beside(self._hear())
        finally:
            await self._client.hang_up()

    async def _sign_in(self) -> None:
        """Who we are: without a token a guest, who needs one to say something."""
        device = self._device
        answer = await self._client.ask(Request("POST", "/session", signed(device.token)))
        if answer.head.status not in (200, 201):
            raise refusal(answer)
        cookie = answer.head.headers.get("set-cookie", "")
        if not cookie.startswith("chat_session=") or not {"httponly", "samesite"} <= _attributes(cookie):
            raise Broken(f"a session whose cookie is {cookie[:12]!r} with {sorted(_attributes(cookie))}")
        session = answer.json()
        wrong = malformed_session(session)
        if wrong is not None:
            raise Broken(wrong)
        device.opening()
        device.last_event_id = ""
        device.enter(self, session["user"], session["token"])

    async def _hear(self) -> NoReturn:
        device, failures = self._device, 0
        while True:
            if self._closed:
                raise Ended(NORMAL)
            try:
                if self._waits and len(device.rooms) > 1:
                    for room, witness in device.rooms.items():
                        if witness.wanted is None:  # which a poll cannot say
                            await self._page(room, witness)
                    await self._poll()
                else:
                    for room, witness in device.rooms.items():
                        await self._page(room, witness)
                failures = 0
            except OSError as error:
                failures += 1
                if failures > FAILURES:
                    raise Ended(ABNORMAL, error.strerror or str(error)) from None
            if failures or (not self._waits and all(witness.synced for witness in device.rooms.values())):
                await asyncio.sleep(device.dice.choice(PAUSES))
            await device.idle()

    async def _poll(self) -> None:
        device = self._device
        asked = {room: witness.wanted for room, witness in device.rooms.items()}
        if None in asked.values():
            return
        known = device.known(OWN)
        wait = device.dice.choice(WAITS)
        body = JSON.encode({"rooms": asked} | ({"wait": wait} if wait else {}))
        request = Request("POST", "/poll", signed(device.token, **{"Content-Type": JSON.media_type}), body)
        began = time.monotonic()
        answer = await self._client.ask(request, patience=ANSWER_SECONDS + wait)
        said = self._read(answer, "polls", malformed_poll)
        if asked != {room: witness.wanted for room, witness in device.rooms.items()}:
            return  # it wants to go back, since it asked
        for room, error in (said.get("errors") or {}).items():
            self._take_error(room, error)
        if said["cursors"].keys() != asked.keys() - (said.get("errors") or {}).keys():
            raise Broken(f"a poll of {sorted(asked)} with cursors of {sorted(said['cursors'])}")
        self._take(asked, said["events"], said["cursors"], said["epoch"], said.get("state"), known)
        for room in said["cursors"]:
            device.rooms[room].synced = not said["more"]
        if said["more"] and not said["events"]:
            raise Broken("a poll that has more, and none of it")
        if not said["events"] and said.get("state") is None:
            self._check_wait(answer, time.monotonic() - began, wait)

    async def _page(self, room: str, witness: Witness) -> None:
        device, after, known = self._device, witness.wanted, self._device.known(room)
        wait, limit = device.dice.choice(WAITS) if self._waits else 0, device.dice.choice((None, *LIMITS))
        parameters = [f"after={after}"]
        if after is None:
            parameters = device.dice.choice(([], ["last=3"]))
        elif after == 0 and room != OWN and device.dice.random() < 0.5:
            parameters = []
        parameters += [f"wait={wait}"] if wait else []
        parameters += [f"limit={limit}"] if limit else []
        path = f"/rooms/{room}/events?{'&'.join(parameters)}".removesuffix("?")
        began = time.monotonic()
        answer = await self._client.ask(Request("GET", path, signed(device.token)), patience=ANSWER_SECONDS + wait)
        page = self._read(answer, "pages", malformed_page)
        if after != witness.wanted:
            return  # it wants to go back, since it asked
        cursor, head = page["cursor"], page["head"]
        if page["room"] != room:
            raise Broken(f"a page of {room} that is said to be of {page['room']}")
        if len(page["events"]) > (limit or LIMIT):
            raise Broken(f"a page of {len(page['events'])} events, of which there may be {limit or LIMIT}")
        self._take({room: after}, page["events"], {room: cursor}, page["epoch"], page.get("state"), known)
        witness.synced = cursor == head
        if cursor < head and not page["events"]:
            raise Broken(f"a page of {room} after {after} without an event, although the head is {head}")
        if not page["events"] and page.get("state") is None:
            self._check_wait(answer, time.monotonic() - began, wait)

    def _read(self, answer: Answer, kind: str, malformed: Callable[[Any], str | None]) -> Data:
        if answer.head.status != 200:
            raise refusal(answer)
        said: Data = answer.json()
        wrong = malformed(said)
        if wrong is not None:
            raise Broken(wrong)
        self._device.ledger.counts[kind] += 1
        return said

    def _take(
        self,
        asked: Mapping[str, int | None],
        events: list[Data],
        cursors: Mapping[str, int],
        epoch: str,
        state: Data | None,
        known: object,
    ) -> None:
        """What is after the cursors that were asked with, and up to those that came back.

        `state` is that of one's own log, where it goes on anew; it was asked for when so much was `known`.
        """
        device = self._device
        device.ledger.take_epoch(epoch, device.name)
        for room, cursor in cursors.items():
            witness, after = device.rooms[room], asked[room]
            anew = room == OWN and state is not None
            finding: Finding | None = None
            if witness.asked or anew:
                witness.asked.clear()
                witness.then_known.clear()
                witness.ask(after, known)
                finding = witness.take_joined(cursor if after is None or anew else min(after, cursor), anew=anew)
            elif after is not None and cursor < after:
                text = f"asked after {after}, which was shown before, but the log ends at {cursor}"
                finding = Finding("lost", text)
            if finding is not None:
                device.violation(finding, room)
            if anew and state is not None:
                device.take_state(cursor, state)
        for event in events:
            if event.get("type") not in EVENTS:
                raise Broken(f"in place of an event a poll brings {str(event)[:200]}")
            if event.get("room") not in cursors:
                raise Broken(f"an event of a room that was not asked for: {str(event)[:200]}")
            device.take(self, event)
        for room, cursor in cursors.items():
            shown = device.rooms[room].cursor
            if cursor != shown:
                text = f"the cursor came back as {cursor}, but the last event shown was {shown}"
                device.violation(Finding("cursor", text), room, min(cursor, shown) + 1)
                device.rooms[room].cursor = shown

    def _take_error(self, room: str, error: Data) -> None:
        """Of one room of several."""
        if not ERRORS[error["code"]]:
            text = f"a poll: {error['code']}: {error['message']}"
            self._device.violation(Finding("error", text), room if room in self._device.rooms else "")

    def _check_wait(self, answer: Answer, seconds: float, wait: float) -> None:
        """An answer without an event waits, but for one that says that the server goes; spread by a tenth."""
        if answer.head.keeps and seconds < 0.85 * wait - 0.5:
            text = f"nothing came after {seconds:.1f} s, and {wait} s were to be waited for an event"
            self._device.violation(Finding("wait", text))


def _attributes(cookie: str) -> set[str]:
    return {part.partition("=")[0].strip().lower() for part in cookie.split(";")[1:]}
