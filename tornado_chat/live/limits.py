"""How much one user, one address and the process may ask for: token buckets and counts of connections and rooms."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Generic, TypeVar

from tornado_chat.config import Settings
from tornado_chat.errors import ChatError, ErrorCode

PROCESS_SHARE = 4
"""The process takes this many times the joins a second that one address may ask for."""

APPEND_BYTES = 8
"""What an `append` counts for besides its characters, in place of its frame: 50 tokens a second in each of 100 messages
are what one user may send by the default limits."""

APPEND_FRAME_BYTES, APPEND_CHAR_BYTES = 512, 12
"""A frame of an `append` needs no more bytes, and for each character, which JSON may escape; what is beyond counts."""

BEGIN_BYTES = 4096
"""What a `begin` counts for besides its frame: it brings two events. So does what the log is asked about a message that
is not here: a room that somebody invents may get a row there."""

FRAME_BYTES = 128
"""Each frame counts as so many bytes more than it has: the least of them costs 1 us."""

USER_FRAME_BYTES, ADDRESS_FRAME_BYTES = 8192, 2048
"""Bytes that a user, and an address, may send for each event that they may: the longest usual text, and seven times
what a busy user's events have."""


GUEST_ENDS, GUEST_ENDS_BURST = 5.0, 100.0
"""Guests whose sessions may be revoked, a second and at once: revocations are kept for ever, and anybody may become as
many guests as they like."""

LONGEST_WAIT = 30.0
"""Seconds that anybody is told to wait at most."""

LARGEST_DEBT = 10.0
"""Seconds of its rate that a bucket may owe, or its burst if that is more: less than a WebSocket client waits for a
pong, as a rule. What comes beyond that is not charged: a message is less than a burst, so it takes many connections,
and their number is limited."""

SWEPT = 1000
"""Accounts that are looked at in one sweep, or an eighth of them: all of 10,000 took 1.3 ms, for which everybody else
waited."""

GONE_ACCOUNTS = 10_000
"""Forgotten accounts whose counts are kept for `live.load`; of more, what they sent is told by address at best."""


class TokenBucket:
    """`rate` tokens a second, at most `burst` of them saved; 0 for either is no limit."""

    __slots__ = ("burst", "filled", "promised", "rate", "tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate if burst else 0.0
        self.burst = burst
        self.tokens = burst
        self.filled = now
        self.promised = now  # when the last of those who were told to wait will come

    def take(self, now: float, count: float = 1.0) -> float:
        """Take `count` tokens: 0.0 if they were there, else the seconds to wait.

        Those who are refused come back one after another: else all but one of them would be refused again.
        """
        if not self.rate:
            return 0.0
        tokens = min(self.burst, self.tokens + (now - self.filled) * self.rate)
        self.filled = now
        if tokens >= count:
            self.tokens = tokens - count
            return 0.0
        self.tokens = tokens
        soonest = now + (count - tokens) / self.rate
        self.promised = min(max(soonest, self.promised + count / self.rate), now + LONGEST_WAIT)
        return self.promised - now

    def owe(self, now: float, count: float) -> float:
        """Take `count` tokens, whether they are there or not: the seconds until none is owed."""
        if not self.rate:
            return 0.0
        tokens = min(self.burst, self.tokens + (now - self.filled) * self.rate) - count
        self.tokens = max(tokens, -max(LARGEST_DEBT * self.rate, self.burst))
        self.filled = now
        return -self.tokens / self.rate if self.tokens < 0 else 0.0

    def full(self, now: float) -> bool:
        return not self.rate or self.tokens + (now - self.filled) * self.rate >= self.burst


def rate_limited(what: str, wait: float) -> ChatError:
    """The refusal of something that may be tried again in `wait` seconds, rounded up: who waits so long is let in."""
    retry_after = math.ceil(wait * 1000) / 1000
    return ChatError(ErrorCode.RATE_LIMITED, f"{what}: try again in {retry_after:g} s", retry_after)


class Account:
    """What one user has in use: `connections` open, and a bucket of events and one of bytes once some were charged.

    `event_count` and `byte_count` are what was charged, granted or not, since `live.load` looked last.
    """

    __slots__ = ("byte_count", "bytes", "connections", "event_count", "events")

    def __init__(self) -> None:
        self.events: TokenBucket | None = None  # most who connect send nothing for long: 100 bytes
        self.bytes: TokenBucket | None = None
        self.connections = 0
        self.event_count = self.byte_count = 0

    def is_idle(self, now: float) -> bool:
        """Nothing is in use and nothing is owed: a new account would allow no more than this one."""
        return (
            not self.connections
            and (self.events is None or self.events.full(now))
            and (self.bytes is None or self.bytes.full(now))
        )


class AddressAccount(Account):
    """What one address has in use: besides, the rooms that its connections are in, and a bucket of joins."""

    __slots__ = ("joins", "rooms")

    def __init__(self, joins: TokenBucket) -> None:
        super().__init__()
        self.joins = joins
        self.rooms: dict[str, int] = {}  # memberships in each, with those that are about to be

    def leave_room(self, name: str) -> None:
        left = self.rooms[name] - 1
        if left:
            self.rooms[name] = left
        else:
            del self.rooms[name]

    def is_idle(self, now: float) -> bool:
        return not self.rooms and self.joins.full(now) and super().is_idle(now)


A = TypeVar("A", bound=Account)


class Accounts(Generic[A]):
    """The accounts of all users, or of all addresses. One is kept until it is idle.

    `gone` is what the forgotten ones had counted, events and bytes, since `live.load` looked last: GONE_ACCOUNTS.
    """

    __slots__ = ("_unswept", "accounts", "burst", "byte_burst", "byte_rate", "gone", "make", "rate", "time")

    def __init__(
        self,
        make: Callable[[], A],
        rate: float,
        burst: float,
        byte_rate: float,
        byte_burst: float,
        time: Callable[[], float],
    ) -> None:
        """`rate`, `burst`: of events; see TokenBucket."""
        self.make = make
        self.rate = rate
        self.burst = burst
        self.byte_rate = byte_rate
        self.byte_burst = byte_burst
        self.time = time
        self.accounts: dict[str, A] = {}
        self.gone: dict[str, tuple[int, int]] = {}
        self._unswept: list[str] = []  # keys of this round

    def enter(self, key: str) -> A:
        """The account of `key`, with one connection more."""
        account = self.find(key)
        account.connections += 1
        return account

    def find(self, key: str) -> A:
        """The account of `key`, which is kept while something else than a connection is in use."""
        account = self.accounts.get(key)
        if account is None:
            account = self.accounts[key] = self.make()
        return account

    def connections(self, key: str) -> int:
        account = self.accounts.get(key)
        return account.connections if account else 0

    def take_event(self, account: A) -> float:
        """Take one event: 0.0 if it is granted, else the seconds to wait."""
        now = self.time()
        if account.events is None:
            account.events = TokenBucket(self.rate, self.burst, now)
        return account.events.take(now)

    def owe_events(self, account: A, count: int) -> None:
        """Take events that are granted anyway: later ones wait for them."""
        if account.events is not None:
            account.events.owe(self.time(), count)

    def owe_bytes(self, account: A, count: int) -> float:
        """Charge bytes that came already: the seconds until none is owed."""
        now = self.time()
        account.byte_count += count
        if account.bytes is None:
            account.bytes = TokenBucket(self.byte_rate, self.byte_burst, now)
        return account.bytes.owe(now, count)

    def sweep(self) -> None:
        """Forget whoever is idle of the next SWEPT accounts, or of the next eighth if that is more."""
        if not self._unswept:
            self._unswept = list(self.accounts)
        now = self.time()
        count = max(SWEPT, len(self.accounts) // 8 + 1)
        keys = self._unswept[-count:]
        del self._unswept[-count:]
        for key in keys:
            account = self.accounts.get(key)
            if account is None or not account.is_idle(now):
                continue
            del self.accounts[key]
            if (account.event_count or account.byte_count) and (len(self.gone) < GONE_ACCOUNTS or key in self.gone):
                events, size = self.gone.get(key, (0, 0))
                self.gone[key] = events + account.event_count, size + account.byte_count


class RoomLimits:
    """How many rooms may be open in the process, and for each address; 0: no limit."""

    __slots__ = ("per_address", "per_process")

    def __init__(self, per_process: int, per_address: int) -> None:
        self.per_process = per_process
        self.per_address = per_address

    def take(self, address: AddressAccount, name: str, rooms: Collection[str]) -> None:
        """Count a membership of the room `name` for `address`, `rooms` being open; `overloaded`: it is one too many."""
        held = address.rooms.get(name, 0)
        if not held and self.per_address and len(address.rooms) >= self.per_address:
            raise ChatError(
                ErrorCode.OVERLOADED,
                f"this address is in {self.per_address:,} rooms, which is the limit: leave some first",
                retry_after=5,
            )
        if self.per_process and name not in rooms and len(rooms) >= self.per_process:
            raise ChatError(
                ErrorCode.OVERLOADED, "this server has as many rooms open as it takes: come later", retry_after=5
            )
        address.rooms[name] = held + 1


class Limits:
    """The limits of one server, by its settings.

    A user may send `send_rate` events a second, and 8 KiB of frames for each; an address as much as `address_users` of
    them, but 2 KiB for each. Bytes are charged after they came: who owes some is not read until they are paid.
    """

    __slots__ = (
        "addresses",
        "guest_ends",
        "http_bytes",
        "joins",
        "max_connections",
        "per_address",
        "rooms",
        "time",
        "users",
    )

    def __init__(self, settings: Settings, max_connections: int, time: Callable[[], float]) -> None:
        self.time = time
        rate, burst, joins = settings.send_rate, settings.send_burst, settings.join_rate
        all_rate = rate * settings.address_users
        all_burst = max(all_rate, burst) if all_rate else 0
        self.users: Accounts[Account] = Accounts(
            Account,
            rate,
            burst,
            rate * USER_FRAME_BYTES,
            max(burst * USER_FRAME_BYTES, 2 * settings.max_frame_bytes) if burst else 0,
            time,
        )
        self.addresses: Accounts[AddressAccount] = Accounts(
            lambda: AddressAccount(TokenBucket(joins, joins * 2, time())),
            all_rate,
            all_burst,
            all_rate * ADDRESS_FRAME_BYTES,
            max(all_burst * ADDRESS_FRAME_BYTES, 2 * settings.max_frame_bytes) if all_rate else 0,
            time,
        )
        self.joins = TokenBucket(joins * PROCESS_SHARE, joins * PROCESS_SHARE * 2, time())
        self.guest_ends = TokenBucket(GUEST_ENDS, GUEST_ENDS_BURST, time())
        self.http_bytes = 0  # of long bodies and answers that HTTP connections hold
        self.per_address = settings.connections_per_address
        self.max_connections = max_connections
        self.rooms = RoomLimits(settings.max_rooms, settings.rooms_per_address)

    def check_address(self, address: str, http: int = 0) -> None:
        """Raise `rate_limited` if the address has too many connections, `http` ones besides its WebSockets."""
        if self.per_address and self.addresses.connections(address) + http >= self.per_address:
            raise ChatError(
                ErrorCode.RATE_LIMITED,
                f"this address has {self.per_address} connections open, which is the limit: close one or come later",
                retry_after=5,
            )

    def check_connection(self, address: str, sockets: int) -> None:
        """Raise `rate_limited` (the address has too many) or `overloaded` (the process has: `sockets` are open)."""
        self.check_address(address)
        if self.max_connections and sockets >= self.max_connections:
            raise ChatError(
                ErrorCode.OVERLOADED, "this server has as many connections as it takes: come later", retry_after=5
            )

    def check_join(self, address: AddressAccount) -> None:
        """Raise `rate_limited` if the address, or everybody together, joins rooms too fast."""
        now = self.time()
        wait = address.joins.take(now) or self.joins.take(now)
        if wait:
            raise rate_limited("too many joins", wait)

    def sweep(self) -> None:
        self.users.sweep()
        self.addresses.sweep()
