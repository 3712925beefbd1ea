"""Token buckets and accounts, with a clock of the test's own."""

from __future__ import annotations

from typing import Any

import pytest

from tornado_chat.config import Settings
from tornado_chat.errors import ChatError
from tornado_chat.live import limits
from tornado_chat.live.limits import (
    ADDRESS_FRAME_BYTES,
    LARGEST_DEBT,
    LONGEST_WAIT,
    USER_FRAME_BYTES,
    Limits,
    TokenBucket,
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make_limits(clock: Clock, **changed: Any) -> Limits:
    wanted: dict[str, Any] = {"send_rate": 10, "send_burst": 5, "join_rate": 2, "connections_per_address": 3} | changed
    return Limits(Settings(**wanted), 5, clock)


def test_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = TokenBucket(rate=10, burst=3, now=0.0)
    assert [bucket.take(0.0) for _ in range(3)] == [0.0] * 3
    assert bucket.take(0.0) == pytest.approx(0.1)
    assert bucket.take(0.1) == 0.0
    assert bucket.take(0.1) > 0


def test_those_who_are_refused_are_let_in_one_after_another() -> None:
    bucket = TokenBucket(rate=10, burst=3, now=0.0)
    waits = [wait for _ in range(23) if (wait := bucket.take(0.0))]
    assert waits == [pytest.approx(0.1 * number) for number in range(1, 21)]
    assert [bucket.take(wait + 0.001) for wait in waits] == [0.0] * 20


def test_nobody_is_told_to_wait_for_ever() -> None:
    bucket = TokenBucket(rate=10, burst=3, now=0.0)
    assert max(bucket.take(0.0) for _ in range(10_000)) == LONGEST_WAIT
    assert bucket.take(1000.0) == 0.0


def test_what_the_forgotten_had_counted_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tornado_chat.live.limits.GONE_ACCOUNTS", 3)
    accounts = make_limits(Clock()).users
    for _ in range(2):
        for number in range(5):
            account = accounts.enter(f"guest-{number}")
            account.event_count += 1
            account.connections -= 1
        accounts.sweep()
        assert not accounts.accounts
    assert accounts.gone == {f"guest-{number}": (2, 0) for number in range(3)}


def test_a_debt_may_be_a_whole_burst() -> None:
    """Else a message that is more than some seconds of a small rate would be half paid."""
    bucket = TokenBucket(rate=1, burst=100, now=0.0)
    assert [bucket.owe(0.0, 80) for _ in range(4)] == [0.0, 60.0, 100.0, 100.0]


def test_a_debt_has_a_bottom() -> None:
    bucket = TokenBucket(rate=10, burst=3, now=0.0)
    assert [bucket.owe(0.0, 1_000_000) for _ in range(3)] == [LARGEST_DEBT] * 3
    assert bucket.owe(LARGEST_DEBT, 0) == 0.0


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
    accounts = make_limits(clock).users
    account = accounts.enter("alice")
    for _ in range(5):
        assert accounts.take_event(account) == 0.0
    account.connections -= 1
    accounts.sweep()
    assert accounts.enter("alice") is account
    account.connections -= 1
    clock.now += 0.6
    accounts.sweep()
    assert accounts.accounts == {}


def test_a_sweep_looks_at_some_and_all_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SWEPT", 10)
    accounts = make_limits(Clock()).users
    for number in range(400):
        accounts.enter(f"user {number}").connections -= number % 2
    sizes = []
    for _ in range(8):
        before = len(accounts.accounts)
        accounts.sweep()
        sizes.append(before - len(accounts.accounts))
    assert 0 < max(sizes) <= 51, "an eighth of 400 at most"
    while len(accounts.accounts) > 200:
        before = len(accounts.accounts)
        accounts.sweep()
        assert len(accounts.accounts) < before
    assert all(account.connections for account in accounts.accounts.values())


def test_account_with_a_connection_is_kept() -> None:
    clock = Clock()
    accounts = make_limits(clock).users
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


def test_bytes_are_owed_and_paid_in_time() -> None:
    clock = Clock()
    limits = make_limits(clock, max_frame_bytes=1024)
    account = limits.users.enter("alice")
    assert account.bytes is None, "who sends little costs nothing"
    assert limits.users.owe_bytes(account, 5 * USER_FRAME_BYTES) == 0.0
    assert limits.users.owe_bytes(account, 2 * USER_FRAME_BYTES) == pytest.approx(0.2)
    clock.now += 0.1
    assert limits.users.owe_bytes(account, 0) == pytest.approx(0.1)
    account.connections -= 1
    clock.now += 0.5
    limits.sweep()
    assert limits.users.accounts == {"alice": account}, "a new connection would owe nothing"
    clock.now += 0.2
    limits.sweep()
    assert not limits.users.accounts


def test_an_address_may_use_the_rates_of_so_many_users() -> None:
    limits = make_limits(Clock(), address_users=100)
    address = limits.addresses.enter("192.0.2.1")
    assert [limits.addresses.take_event(address) for _ in range(1000)] == [0.0] * 1000
    assert limits.addresses.take_event(address) == pytest.approx(0.001)
    assert limits.addresses.owe_bytes(address, 1000 * ADDRESS_FRAME_BYTES) == 0.0
    assert limits.addresses.owe_bytes(address, 1000 * ADDRESS_FRAME_BYTES) == pytest.approx(1.0)


@pytest.mark.parametrize("lifted", [{"send_rate": 0}, {"address_users": 0}])
def test_the_limits_of_an_address_can_be_lifted(lifted: dict[str, int]) -> None:
    limits = make_limits(Clock(), **lifted)
    address = limits.addresses.enter("192.0.2.1")
    assert not any(limits.addresses.take_event(address) for _ in range(10_000))
    assert limits.addresses.owe_bytes(address, 1 << 40) == 0.0


def test_rooms_of_an_address_are_limited() -> None:
    limits = make_limits(Clock(), rooms_per_address=2)
    one, other = limits.addresses.enter("192.0.2.1"), limits.addresses.enter("192.0.2.2")
    for name in ("a", "b", "a"):
        limits.rooms.take(one, name, ())
    with pytest.raises(ChatError) as refused:
        limits.rooms.take(one, "c", ())
    assert refused.value.code == "overloaded"
    assert refused.value.retry_after
    limits.rooms.take(other, "c", ())
    one.leave_room("a")
    with pytest.raises(ChatError):
        limits.rooms.take(one, "c", ())
    one.leave_room("a")
    limits.rooms.take(one, "c", ())
    assert one.rooms == {"b": 1, "c": 1}


def test_rooms_of_the_process_are_limited() -> None:
    limits = make_limits(Clock(), max_rooms=2)
    address = limits.addresses.enter("192.0.2.1")
    limits.rooms.take(address, "a", {"a", "b"})
    with pytest.raises(ChatError) as refused:
        limits.rooms.take(address, "c", {"a", "b"})
    assert refused.value.code == "overloaded"
    limits.rooms.take(address, "c", {"a"})
