"""All endpoints that this process delivers to: which those are by their leases, and when each has its turn."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from tornado_chat.errors import LogReplaced, LogUnavailable
from tornado_chat.log import Log
from tornado_chat.log.webhooks import GIVEN_UP, WEBHOOKS, Webhook, Webhooks
from tornado_chat.logs import Repeated
from tornado_chat.webhooks.endpoint import AT_ONCE, Endpoint
from tornado_chat.webhooks.posting import ANSWER_SECONDS, Poster

logger = logging.getLogger(__name__)

TURN_SECONDS = 0.5
"""Between two looks at the log."""

LOOKED = 25_000
"""Rooms that are looked at in a turn, of all endpoints together, if something was committed. Measured: 1.7 us each, in
an SQLite file of 100,000 rooms."""

LEASE_SECONDS, RENEW_SECONDS = 25.0, 3.0
"""How long an endpoint is ours without a sign, and how often we give one."""

SEND_SECONDS = ANSWER_SECONDS + 1.0
"""What is left of a lease when the last attempt is begun: it ends before another process begins."""


class Deliverer:
    """`run` is its life, until cancelled. `holder` names this process; one that takes its place may have the same."""

    def __init__(self, store: Webhooks, log: Log, holder: str, clock: Callable[[], float] | None = None) -> None:
        """`clock` tells ms since 1970, for how long to be patient."""
        self._store = store
        self._log = log
        self._holder = holder
        self._clock = clock or (lambda: time.time() * 1000)
        self._poster = Poster(AT_ONCE * WEBHOOKS)
        self._endpoints: dict[int, Endpoint] = {}
        self._until = 0.0  # by the loop's clock: attempts may begin until then
        self._renew_at = 0.0
        self._version = ""
        self._unavailable = Repeated(logger)

    async def run(self) -> None:
        """LogReplaced: the log has another epoch now, and whoever starts anew begins with that."""
        try:
            await self._tell_given_up()
            while True:
                try:
                    await self._turn()
                except LogUnavailable as error:
                    self._unavailable.warning("log does not answer reason=%s", error)
                await asyncio.sleep(TURN_SECONDS)
        finally:
            await asyncio.gather(*(endpoint.stop() for endpoint in self._endpoints.values()))
            try:
                if self._endpoints:
                    await self._store.release(self._holder)
            except LogUnavailable as error:
                logger.warning("endpoints not released, another process waits for them reason=%s", error)
            self._poster.close()

    async def _turn(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._renew_at:
            await self._claim(now)
            self._renew_at = now + RENEW_SECONDS
        if not self._endpoints:
            return
        version = await self._store.version()
        changed = version != self._version
        for endpoint in self._endpoints.values():
            await endpoint.turn(changed=changed, limit=LOOKED // len(self._endpoints))
        self._version = version  # after all have heard of it

    async def _claim(self, now: float) -> None:
        if await self._log.read_epoch() != self._log.epoch:
            raise LogReplaced("the log has another epoch")
        held = {webhook.id: webhook for webhook in await self._store.claim(self._holder, LEASE_SECONDS)}
        self._until = now + LEASE_SECONDS - SEND_SECONDS
        for id, endpoint in list(self._endpoints.items()):
            webhook = held.get(id)
            if endpoint.lost or webhook is None or webhook.fence != endpoint.webhook.fence:
                del self._endpoints[id]
                await endpoint.stop()
            else:
                endpoint.webhook = webhook  # its secret may be another
        for id, webhook in held.items():
            if id not in self._endpoints:
                self._endpoints[id] = self._made(webhook)
                self._version = ""

    def _made(self, webhook: Webhook) -> Endpoint:
        logger.info("webhook delivered to webhook=%d url=%s", webhook.id, webhook.url)
        may_send = self._may_send
        return Endpoint(webhook, self._store, self._log, self._poster, may_send, self._clock)

    def _may_send(self) -> bool:
        return asyncio.get_running_loop().time() < self._until

    async def _tell_given_up(self) -> None:
        for webhook in await self._store.all():
            if webhook.state == GIVEN_UP:
                facts = webhook.id, webhook.url, f"tornado-chat webhook resume {webhook.id}"
                logger.error("webhook is given up webhook=%d url=%s go_on_with=%s", *facts)
