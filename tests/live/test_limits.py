"""Token buckets and accounts, with a clock of the test's own."""

from __future__ import annotations

import pytest

from tornado_chat.errors import ChatError
from tornado_chat.live.limits import Accounts, Limits, TokenBucket


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make_limits(clock: Clock, **changed: int) -> Limits:
    wanted = {"send_rate": 10, "send_burst": 5, "join_rate": 2, "per_address": 3, "max_connections": 5} | changed
    return Limits(time=clock, **wanted)


def test_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = TokenBucket(rate=10, burst=3, now=0.0)
    assert [bucket.take(0.0) for _ in range(3)] == [0.0] * 3
    assert bucket.take(0.0) == pytest.approx(0.1)
    assert bucket.take(0.05) == pytest.approx(0.05)
    assert bucket.take(0.1) == 0.0
    assert bucket.take(0.1) > 0


def test_bucket_saves_no_more_than_its_burst() -> None:
    bucket = TokenBucket(rate=10, burst=3, now=0.0)
    assert [bucket.take(1000.0) == 0.0 for _ in range(4)] == [True, True, True, False]


@pytest.mark.parametrize(("rate", "burst"), [(0, 5), (5, 0), (0, 0)])
def test_zero_is_no_limit(rate: int, burst: int) -> None:
    bucket = TokenBucket(rate, burst, now=0.0)
    assert not any(bucket.take(0.0) for _ in range(10_000))
    assert bucket.full(0.0)


def test_account_outlives_its_connection_until_the_bucket_is_full() -> None:
    """Else a reconnect would be a way around the limit."""
    clock = Clock()
    accounts = Accounts(rate=10, burst=5, time=clock)
    account = accounts.enter("alice")
    for _ in range(5):
        assert account.bucket.take(clock()) == 0.0
    account.connections -= 1
    accounts.sweep()
    assert accounts.enter("alice") is account
    account.connections -= 1
    clock.now += 0.6
    accounts.sweep()
    assert accounts.accounts == {}


def test_account_with_a_connection_is_kept() -> None:
    clock = Clock()
    accounts = Accounts(rate=10, burst=5, time=clock)
    accounts.enter("alice")
    clock.now += 1000
    accounts.sweep()
    assert accounts.connections("alice") == 1
    assert accounts.connections("bob") == 0


def test_connections_of_an_address_are_limited() -> None:
    limits = make_limits(Clock())
    for _ in range(3):
        limits.check_connection("192.0.2.1", 0)
        limits.addresses.enter("192.0.2.1")
    with pytest.raises(ChatError) as refused:
        limits.check_connection("192.0.2.1", 0)
    assert refused.value.code == "rate_limited"
    assert refused.value.retry_after
    limits.check_connection("192.0.2.2", 4)


def test_connections_of_the_process_are_limited() -> None:
    limits = make_limits(Clock())
    with pytest.raises(ChatError) as refused:
        limits.check_connection("192.0.2.1", 5)
    assert refused.value.code == "overloaded"


def test_joins_are_limited_for_an_address_and_for_the_process() -> None:
    clock = Clock()
    limits = make_limits(clock)
    one = limits.addresses.enter("192.0.2.1")
    for _ in range(4):
        limits.check_join(one)
    with pytest.raises(ChatError) as refused:
        limits.check_join(one)
    assert refused.value.code == "rate_limited"
    assert refused.value.retry_after == pytest.approx(0.5)
    for number in range(2, 5):
        other = limits.addresses.enter(f"192.0.2.{number}")
        for _ in range(4):
            limits.check_join(other)
    with pytest.raises(ChatError):
        limits.check_join(limits.addresses.enter("192.0.2.9"))
    clock.now += 10
    limits.check_join(one)
