"""What one user may publish and how often, without a connection of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.chat import Running, eventually, running
from tornado_chat.auth import Identity
from tornado_chat.errors import ChatError, ErrorCode
from tornado_chat.live import publisher as publisher_module
from tornado_chat.live.author import Author
from tornado_chat.log import Appended, Entry
from tornado_chat.wire.commands import Edit, Read, Send

ADDRESS = "192.0.2.1"


class Asker:
    """A Sender that keeps what it is told."""

    def __init__(self, user: str) -> None:
        self.user = user
        self.outcomes: list[Any] = []
        self.entries: list[Entry] = []
        self.resumed = 0
        self.flushed = 0
        self.failed = 0

    def resume(self) -> None:
        self.resumed += 1

    def published(self, entry: Entry, outcome: Appended | ChatError) -> None:
        self.entries.append(entry)
        self.outcomes.append(outcome)

    def flush_replies(self) -> None:
        self.flushed += 1

    def fail(self) -> None:
        self.failed += 1


@contextmanager
def author_of(here: Running, user: str, **identity: Any) -> Iterator[Author]:
    """It is gone after the block, and leaves nothing behind but what it spent."""
    limits = here.server.limits
    address = limits.addresses.enter(ADDRESS)
    author = Author(here.server.context, Identity(user, user.title(), **identity), address)
    assert limits.users.connections(user) == 1
    yield author
    author.end()
    assert limits.users.connections(user) == 0


async def test_what_is_published_reaches_the_room_and_the_sender(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        member = await here.join("r")
        with author_of(here, "alice") as author:
            asker = Asker("alice")
            assert author.publish(Send(room="r", text="hello", id="one", mark=False), asker)
            assert author.publish(Edit(room="r", seq=1, text="better"), asker)
            assert author.publish(Read(room="r", seq=1, id="two"), asker)
            await eventually(lambda: len(asker.outcomes) == 3)
            assert [(type(outcome), outcome.seq) for outcome in asker.outcomes] == [
                (Appended, 1),
                (Appended, 2),
                (Appended, 1),
            ]
            assert asker.flushed >= 1
            assert [entry.id for entry in asker.entries] == ["one", None, "two"]
            got = await member.until("message")
            assert (got["user"], got["name"], got["text"], got["id"]) == ("alice", "Alice", "hello", "one")
            assert (await member.until("edited"))["target"] == 1
            assert (await member.until("read"))["user"] == "alice"


async def test_a_room_that_the_token_does_not_cover_is_forbidden_and_costs_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, send_rate=1, send_burst=1) as here:
        with author_of(here, "alice", rooms=("team-*",)) as author:
            asker = Asker("alice")
            with pytest.raises(ChatError) as refused:
                author.publish(Send(room="secret", text="x"), asker)
            assert refused.value.code is ErrorCode.FORBIDDEN
            assert author.publish(Send(room="team-1", text="x"), asker)
            await eventually(lambda: asker.outcomes)


async def test_events_are_a_users_and_a_guests_are_its_address_too(tmp_path: Path) -> None:
    async with running(tmp_path, send_rate=1, send_burst=3, address_users=4) as here:
        for number in range(2):
            with author_of(here, f"guest-{number}", guest=True) as guest:
                for _ in range(2):
                    guest.charge()
        with author_of(here, "guest-3", guest=True) as guest:
            with pytest.raises(ChatError) as refused:
                guest.charge()
            assert refused.value.code is ErrorCode.RATE_LIMITED
            assert refused.value.retry_after
        with author_of(here, "alice") as author:
            for _ in range(3):
                author.charge()
            with pytest.raises(ChatError) as refused:
                author.charge()
            assert refused.value.code is ErrorCode.RATE_LIMITED


async def test_bytes_are_owed_by_the_user_and_by_the_address(tmp_path: Path) -> None:
    async with running(tmp_path, send_rate=10, send_burst=10, address_users=10) as here:
        with author_of(here, "alice") as alice:
            assert alice.owe_bytes(1000) == 0.0
            assert alice.owe_bytes(300_000) > 0, "more than its own bucket holds"
        with author_of(here, "bob") as bob:
            assert bob.owe_bytes(1000) > 0, "the address owes, whoever of it spent that"


async def test_a_full_queue_is_waited_for_and_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path, send_rate=1, send_burst=2) as here:
        with author_of(here, "alice") as author:
            asker = Asker("alice")
            monkeypatch.setattr(publisher_module, "QUEUE_ENTRIES", 1)
            assert author.publish(Send(room="r", text="one", id="1"), asker)
            assert not author.publish(Send(room="r", text="two", id="2"), asker)
            await eventually(lambda: asker.resumed)
            assert len(asker.outcomes) == 1
            assert author.publish(Send(room="r", text="two", id="2"), asker)
            await eventually(lambda: len(asker.outcomes) == 2)
            assert asker.outcomes[1].seq == 2


async def test_keys_of_those_without_an_id_are_never_the_same(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        with author_of(here, "alice") as author:
            asker = Asker("alice")
            for _ in range(3):
                assert author.publish(Send(room="r", text="same"), asker)
            await eventually(lambda: len(asker.outcomes) == 3)
            assert [outcome.seq for outcome in asker.outcomes] == [1, 2, 3]
            assert len({entry.key for entry in asker.entries}) == 3
