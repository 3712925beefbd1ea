"""How much one user, one address and the process may ask for: token buckets and counts of connections."""

from __future__ import annotations

import math
from collections.abc import Callable

from tornado_chat.errors import ChatError, ErrorCode

PROCESS_SHARE = 4
"""The process takes this many times the joins a second that one address may ask for."""


class TokenBucket:
    """`rate` tokens a second, at most `burst` of them saved; 0 for either is no limit."""

    __slots__ = ("burst", "filled", "rate", "tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate if burst else 0.0
        self.burst = burst
        self.tokens = burst
        self.filled = now

    def take(self, now: float, count: float = 1.0) -> float:
        """Take `count` tokens: 0.0 if they were there, else the seconds until they will be."""
        if not self.rate:
            return 0.0
        tokens = min(self.burst, self.tokens + (now - self.filled) * self.rate)
        self.filled = now
        if tokens >= count:
            self.tokens = tokens - count
            return 0.0
        self.tokens = tokens
        return (count - tokens) / self.rate

    def full(self, now: float) -> bool:
        return not self.rate or self.tokens + (now - self.filled) * self.rate >= self.burst


def rate_limited(what: str, wait: float) -> ChatError:
    """The refusal of something that may be tried again in `wait` seconds, rounded up: who waits so long is let in."""
    retry_after = math.ceil(wait * 1000) / 1000
    return ChatError(ErrorCode.RATE_LIMITED, f"{what}: try again in {retry_after:g} s", retry_after)


class Account:
    """What one user or one address has in use: `connections` open, and a bucket of sends or of joins."""

    __slots__ = ("bucket", "connections")

    def __init__(self, bucket: TokenBucket) -> None:
        self.bucket = bucket
        self.connections = 0


class Accounts:
    """The accounts of all users, or of all addresses.

    One without connections is kept until its bucket is full again, or a reconnect would be a way around the limit.
    """

    __slots__ = ("accounts", "burst", "rate", "time")

    def __init__(self, rate: float, burst: float, time: Callable[[], float]) -> None:
        self.rate = rate
        self.burst = burst
        self.time = time
        self.accounts: dict[str, Account] = {}

    def enter(self, key: str) -> Account:
        account = self.accounts.get(key)
        if account is None:
            account = self.accounts[key] = Account(TokenBucket(self.rate, self.burst, self.time()))
        account.connections += 1
        return account

    def connections(self, key: str) -> int:
        account = self.accounts.get(key)
        return account.connections if account else 0

    def sweep(self) -> None:
        """Forget whoever has no connection and nothing to pay back."""
        now = self.time()
        idle = [k for k, account in self.accounts.items() if not account.connections and account.bucket.full(now)]
        for key in idle:
            del self.accounts[key]


class Limits:
    """The limits of one server (settings `send_*`, `join_rate`, `connections_per_address`, `max_connections`)."""

    __slots__ = ("addresses", "joins", "max_connections", "per_address", "time", "users")

    def __init__(
        self,
        *,
        send_rate: float,
        send_burst: float,
        join_rate: float,
        per_address: int,
        max_connections: int,
        time: Callable[[], float],
    ) -> None:
        self.time = time
        self.users = Accounts(send_rate, send_burst, time)
        self.addresses = Accounts(join_rate, join_rate * 2, time)
        self.joins = TokenBucket(join_rate * PROCESS_SHARE, join_rate * PROCESS_SHARE * 2, time())
        self.per_address = per_address
        self.max_connections = max_connections

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

    def check_join(self, address: Account) -> None:
        """Raise `rate_limited` if the address, or everybody together, joins rooms too fast."""
        now = self.time()
        wait = address.bucket.take(now) or self.joins.take(now)
        if wait:
            raise rate_limited("too many joins", wait)

    def sweep(self) -> None:
        self.users.sweep()
        self.addresses.sweep()
