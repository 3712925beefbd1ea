"""Who causes load here: the users and addresses with most in use and most sent lately, for the log.

Connections and rooms are those of this moment. Events and bytes are what was charged in the last one to two minutes,
granted or not, where limits are lifted too. Accounts count, and each minute what they counted is put aside: an event
costs two additions. To tell takes 35 ms where 10,000 users come from as many addresses.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from heapq import nlargest
from itertools import islice
from operator import truediv

from tornado_chat.live.context import Context
from tornado_chat.live.limits import A, Accounts
from tornado_chat.live.session import Session

logger = logging.getLogger(__name__)
logger.setLevel(logging.INFO)  # it was asked for: written whatever the level of the rest

LINES = 10
"""Of users, and of addresses."""

MINUTE = 60.0

Counts = dict[str, tuple[int, int]]
"""Events and bytes, by the key of an account."""


class Load:
    """What the accounts of a server have used lately."""

    __slots__ = ("_addresses", "_context", "_http", "_since", "_turned", "_users")

    def __init__(self, context: Context, http: Mapping[str, int]) -> None:
        """`http`: the HTTP connections of each address."""
        self._context = context
        self._http = http
        self._users: Counts = {}  # of the minute before the one that the accounts count
        self._addresses: Counts = {}
        self._since = self._turned = context.limits.time()

    def turn(self) -> None:
        """Call it each second: what was counted for a minute is put aside."""
        limits = self._context.limits
        now = limits.time()
        if now - self._turned >= MINUTE:
            self._users, self._addresses = _take(limits.users), _take(limits.addresses)
            self._since, self._turned = self._turned, now

    def tell(self) -> None:
        """Write to the log who causes load, a line for each, the busiest first; before them what all use together."""
        limits = self._context.limits
        seconds = round(limits.time() - self._since)
        rooms = self._rooms_of_users()
        users = {
            user: (connections, rooms.get(user, 0), events, size)
            for user, (connections, events, size) in _used(limits.users, self._users).items()
        }
        addresses = {address: (0, 0, 0, 0, http) for address, http in self._http.items()}
        for address, (connections, events, size) in _used(limits.addresses, self._addresses).items():
            account = limits.addresses.accounts.get(address)
            held = len(account.rooms) if account else 0
            addresses[address] = connections, held, events, size, self._http.get(address, 0)
        logger.info(
            "load users=%d addresses=%d connections=%d rooms=%d events=%d bytes=%d seconds=%d",
            len(users),
            len(addresses),
            sum(use[0] for use in users.values()),
            len(self._context.hub.rooms),
            sum(use[2] for use in users.values()),
            sum(use[3] for use in users.values()),
            seconds,
        )
        for user in _busiest(users):
            logger.info(
                "load user=%s connections=%d rooms=%d events=%d bytes=%d seconds=%d", user, *users[user], seconds
            )
        for address in _busiest(addresses):
            logger.info(
                "load address=%s connections=%d rooms=%d events=%d bytes=%d http_connections=%d seconds=%d",
                address,
                *addresses[address],
                seconds,
            )

    def _rooms_of_users(self) -> dict[str, int]:
        """How many different rooms each is in."""
        rooms: dict[str, set[str]] = {}
        for line in self._context.lines.open:
            session = line.listener
            if isinstance(session, Session) and session.members:
                rooms.setdefault(session.user, set()).update(member.room for member in session.members)
        return {user: len(names) for user, names in rooms.items()}


def _take(accounts: Accounts[A]) -> Counts:
    """What was counted, which begins again at 0."""
    taken, accounts.gone = accounts.gone, {}
    for key, account in accounts.accounts.items():
        if account.event_count or account.byte_count:
            events, size = taken.get(key, (0, 0))
            taken[key] = events + account.event_count, size + account.byte_count
            account.event_count = account.byte_count = 0
    return taken


def _used(accounts: Accounts[A], before: Counts) -> dict[str, tuple[int, int, int]]:
    """Of each account, those that were forgotten since included: connections, events, bytes."""
    used = {key: (0, *counts) for key, counts in before.items()}
    for key, (events, size) in accounts.gone.items():
        _, earlier_events, earlier_size = used.get(key, (0, 0, 0))
        used[key] = 0, earlier_events + events, earlier_size + size
    for key, account in accounts.accounts.items():
        _, events, size = used.get(key, (0, 0, 0))
        used[key] = account.connections, events + account.event_count, size + account.byte_count
    return used


def _busiest(uses: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Who has most of each measure, in turns, LINES in all; the greatest share of anything comes first."""
    measures = list(zip(*uses.values(), strict=True))
    totals = [sum(counts) or 1 for counts in measures]
    ranks = [nlargest(LINES, zip(counts, uses, strict=True)) for counts in measures]
    greatest = (key for rank in zip(*ranks, strict=True) for count, key in rank if count)
    chosen = islice(dict.fromkeys(greatest), LINES)
    return sorted(chosen, key=lambda key: max(map(truediv, uses[key], totals)), reverse=True)
