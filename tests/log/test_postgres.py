"""What can go wrong between a log and its PostgreSQL, and what several processes do to each other there."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import asyncpg
import pytest

from tests.support.chat import SECONDS, eventually
from tests.support.entries import (
    MIB,
    append,
    begun,
    deleted,
    edited,
    everything,
    guests_mark,
    message,
    reacted,
    read_mark,
)
from tornado_chat.errors import ChatError, ConfigError, ErrorCode, LogUnavailable
from tornado_chat.log import Appended, Entry, own, postgres_writer, sweeping
from tornado_chat.log.growing import Checkpoint
from tornado_chat.log.postgres import PAGE_READERS, WAITING_READS, WAITING_WRITES, PostgresLog, open_postgres
from tornado_chat.log.sweeping import OwnLogs
from tornado_chat.verify.postgres_server import PostgresServer
from tornado_chat.verify.proxy import Proxy

pytest_plugins = ["tests.support.postgres_servers"]


@asynccontextmanager
async def opened(database: str, count: int = 1, timeout: float = 10.0) -> AsyncIterator[list[PostgresLog]]:  # noqa: ASYNC109 - the logs'
    """As many logs of one database, as so many workers would have."""
    logs = [await open_postgres(database, timeout=timeout) for _ in range(count)]
    try:
        yield logs
    finally:
        await asyncio.gather(*(log.close() for log in logs))


@asynccontextmanager
async def held(database: str, room: str = "lobby") -> AsyncIterator[asyncpg.Connection]:
    """Another connection in the middle of an append to `room`."""
    db = await asyncpg.connect(database)
    try:
        async with db.transaction():
            await db.execute("SELECT ids FROM lock_rooms($1)", [room])
            yield db
    finally:
        await db.close()


async def comes_to(asked: Callable[[], Awaitable[Any]], wanted: Any) -> None:
    """Return when what `asked` answers is `wanted`."""
    async with asyncio.timeout(SECONDS):
        while await asked() != wanted:  # noqa: ASYNC110 - it comes about in another process
            await asyncio.sleep(0.005)


async def waiting_for_locks(db: asyncpg.Connection, count: int) -> None:
    """Return when so many connections of the server wait for a lock."""
    await comes_to(lambda: db.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"), count)


async def said(log: PostgresLog, room: str = "lobby") -> list[str]:
    return [event["text"] for event in await everything(log, room)]


async def persistent(log: PostgresLog, entries: list[Entry]) -> list[Appended]:
    """As a publisher's senders do: again with the same keys until the log answers."""
    while True:
        try:
            return await append(log, *entries)
        except LogUnavailable:
            await asyncio.sleep(0.02)


# Several processes


@pytest.mark.parametrize("isolation", ["read committed", "serializable"])
async def test_workers_with_the_same_ids_in_different_orders(postgres_url: str, isolation: str) -> None:
    db = await asyncpg.connect(postgres_url)
    # What an operator may have set is not what the log relies on.
    await db.execute(
        f"ALTER DATABASE {urlsplit(postgres_url).path[1:]} SET default_transaction_isolation TO '{isolation}'"
    )
    await db.close()
    rooms = [f"room-{number}" for number in range(8)]
    async with opened(postgres_url, 4) as logs:

        async def worker(seed: int) -> dict[tuple[str, str], list[Appended]]:
            """Everything, in an order of its own, in batches of any size, some of them twice."""
            dice = random.Random(seed)
            entries = [message(f"{room} {key}", room, key=f"k{key}") for room in rooms for key in range(40)]
            entries += dice.sample(entries, 60)
            dice.shuffle(entries)
            found: dict[tuple[str, str], list[Appended]] = {}
            while entries:
                size = dice.choice((1, 2, 7, 20))
                batch, entries = entries[:size], entries[size:]
                mixed = dice.random() < 0.5
                outcomes = await logs[seed].append([read_mark(9, room=rooms[0]), *batch] if mixed else batch)
                for entry, outcome in zip(batch, outcomes[mixed:], strict=True):
                    assert isinstance(outcome, Appended), outcome
                    found.setdefault((entry.room, entry.key), []).append(outcome)
            return found

        workers = await asyncio.gather(*(worker(seed) for seed in range(4)))
        for room in rooms:
            events = await everything(logs[0], room)
            assert sorted(event["id"] for event in events) == sorted(f"k{key}" for key in range(40))
            for event in events:
                outcomes = [outcome for found in workers for outcome in found[room, event["id"]]]
                assert {(outcome.seq, outcome.ts) for outcome in outcomes} == {(event["seq"], event["ts"])}
                assert [outcome.duplicate for outcome in outcomes].count(False) == 1
            stamps = [event["ts"] for event in events]
            assert stamps == sorted(stamps)


async def test_an_id_that_another_worker_commits_at_this_moment(postgres_url: str) -> None:
    async with opened(postgres_url, 3) as logs, opened(postgres_url) as (reader,):
        await append(reader, message("first"))
        for number in range(20):
            batches = [
                [message("x", key=f"a{number}")],
                [read_mark(1), message("x", key=f"a{number}")],
                [message("y", key=f"b{number}"), message("x", key=f"a{number}")],
            ]
            # All of them wait for the lock, each with a view of the log from before the others' commits.
            async with held(postgres_url) as db:
                waiting = [asyncio.ensure_future(append(log, *batch)) for log, batch in zip(logs, batches, strict=True)]
                await waiting_for_locks(db, 3)
            outcomes = [(await task)[-1] for task in waiting]
            assert len({outcome.seq for outcome in outcomes}) == 1
            assert sorted(outcome.duplicate for outcome in outcomes) == [False, True, True]
        assert len(await said(reader)) == 41


async def test_new_rooms_that_several_workers_make_at_the_same_time(postgres_url: str) -> None:
    async with opened(postgres_url, 4) as logs:
        for number in range(30):
            rooms = [f"{name}-{number}" for name in "abcdef"]
            batches = [[message(room=room) for room in random.sample(rooms, 4)] for _ in logs]
            outcomes = await asyncio.gather(*(append(log, *batch) for log, batch in zip(logs, batches, strict=True)))
            got: dict[str, list[int]] = {room: [] for room in rooms}
            for batch, answered in zip(batches, outcomes, strict=True):
                for entry, outcome in zip(batch, answered, strict=True):
                    got[entry.room].append(outcome.seq)
            assert all(sorted(seqs) == list(range(1, len(seqs) + 1)) for seqs in got.values())


async def test_workers_that_edit_delete_and_react_at_the_same_time(postgres_url: str) -> None:
    async with opened(postgres_url, 3) as logs:
        await append(logs[0], *(message(str(number)) for number in range(30)))

        async def worker(seed: int) -> list[Appended | ChatError]:
            dice = random.Random(seed)
            outcomes: list[Appended | ChatError] = []
            for _ in range(40):
                target = dice.randint(1, 30)
                kinds = [edited(target, f"by {seed}"), reacted(target, user=f"user-{seed}"), deleted(target), message()]
                outcomes += await logs[seed].append(dice.sample(kinds, dice.randint(1, 4)))
            return outcomes

        outcomes = [outcome for found in await asyncio.gather(*map(worker, range(3))) for outcome in found]
        events = await everything(logs[0])
        done = [outcome.seq for outcome in outcomes if isinstance(outcome, Appended)]
        assert sorted(done) == list(range(31, len(events) + 1))
        assert all(outcome.code == ErrorCode.NOT_FOUND for outcome in outcomes if isinstance(outcome, ChatError))
        gone: set[int] = set()
        for event in events:
            if event["type"] != "message":
                assert event["target"] not in gone  # nothing was done to what another worker had deleted
            if event["type"] == "deleted":
                gone.add(event["target"])
        assert {event["seq"] for event in events if event["type"] == "message" and "deleted" in event} == gone


async def test_messages_that_move_while_they_are_kept(postgres_url: str) -> None:
    """What locks several of them does it in one order; else PostgreSQL fails one of the two after a second."""
    async with opened(postgres_url, 3) as (one, other, third):
        ids = [f"re:{number}" for number in range(40)]
        seqs = [outcome.seq for outcome in await append(one, *(begun(id, home="one") for id in ids))]
        moved = asyncio.Event()

        async def keep() -> None:
            while not moved.is_set():
                await one.checkpoint("one", [Checkpoint("lobby", seq, 1, 0, "", linked=True) for seq in seqs])

        async def orphan() -> None:
            while not moved.is_set():
                await third.orphan("one")

        others = asyncio.gather(keep(), orphan())
        for home in ("other", "one") * 5:
            await append(other, *(begun(id, home=home) for id in reversed(ids)))
        moved.set()
        await others


async def test_the_functions_of_the_database_have_the_bounds_of_the_code(postgres_url: str) -> None:
    """SQL cannot name the constants. Who changes one, or writes another number, is told here."""
    async with opened(postgres_url):
        db = await asyncpg.connect(postgres_url)
        functions = await db.fetch("SELECT proname, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace")
        await db.close()
    sources = {row["proname"]: re.sub("--.*", "", row["prosrc"]) for row in functions}
    named = dict(re.findall(r"(\w+) (?:CONSTANT )?integer := ([0-9]+);", sources["add_entries"]))
    assert {name: int(number) for name, number in named.items()} == {
        "erasable": sweeping.EDITS,
        "events_limit": own.KEPT,
        "mentions_limit": own.MENTIONS,
        "mentions_look": own.MENTIONS_LOOK,
        "follows_limit": own.FOLLOWS,
        "invitations_limit": own.INVITATIONS,
        "mention": 1,  # a place
    }
    numbers = {name: set(re.findall(r"\b[0-9]{2,}\b", source)) for name, source in sources.items()}
    assert {name: found for name, found in numbers.items() if found and name != "add_entries"} == {
        "settle": {str(own.SETTLED)},
        "clock_ms": {"1000"},  # a second
    }


async def test_a_clock_that_is_behind_does_not_turn_time_back(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(postgres_url, 2) as logs:
        (first,) = await append(logs[0], message())
        monkeypatch.setattr("tornado_chat.log.postgres_writer.time.time", lambda: 1000.0)
        assert (await append(logs[1], message()))[0].ts == first.ts
        assert (await append(logs[1], reacted(1)))[0].ts == first.ts


async def test_revocations_become_visible_in_the_order_of_their_ids(postgres_url: str) -> None:
    db = await asyncpg.connect(postgres_url)
    async with opened(postgres_url) as (log,):
        async with db.transaction():
            await db.execute("SELECT revoke_session('first')")  # another worker's, which takes its time
            revoking = asyncio.ensure_future(log.revoke("second"))
            await waiting_for_locks(db, 1)
            assert await log.revocations(0) == []
        await revoking
        first, second = await log.revocations(0)
        assert (first.jti, second.jti) == ("first", "second")
        assert first.id < second.id
    await db.close()


async def test_a_commit_waits_for_the_disk_whatever_the_server_is_set_to(postgres_url: str) -> None:
    db = await asyncpg.connect(postgres_url)
    await db.execute(f"ALTER DATABASE {urlsplit(postgres_url).path[1:]} SET synchronous_commit TO off")
    await db.close()
    async with opened(postgres_url) as (log,):
        # Only a power failure would show it.
        assert await log._writer.call(lambda db: db.fetchval("SHOW synchronous_commit")) == "on"


async def test_plans_made_for_empty_tables_do_for_great_ones(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tornado_chat.log.postgres.PAGE_READERS", 1)
    db = await asyncpg.connect(postgres_url)
    async with opened(postgres_url) as (log,):

        async def rows_looked_at() -> int:
            for pool in log._pools:  # a connection tells its counts when it likes, unless it is asked
                await pool.call(lambda db: db.execute("SELECT pg_stat_force_next_flush()"))
            query = "SELECT sum(idx_tup_read + idx_tup_fetch)::bigint FROM pg_stat_user_indexes"
            looked_at: int = await db.fetchval(query)
            seqs = await db.fetchval(
                "SELECT sum(seq_tup_read)::bigint FROM pg_stat_user_tables WHERE relname = 'events'"
            )
            return looked_at + int(seqs)

        async def all_there_is(turn: int) -> None:
            await append(log, *(message(room=f"new-{turn}-{number}") for number in range(3)), message(key=f"k{turn}"))
            await append(log, message(), edited(1), reacted(1), read_mark(1), message(key=f"k{turn}"))
            await log.append([deleted(2), edited(2)])
            await log.read("lobby", 0, before=100, max_events=50, max_bytes=MIB)
            await log.history("lobby", before=100, limit=20, max_bytes=MIB)
            await log.heads(["lobby", "new-0-1"])
            await log.marks([("lobby", "alice"), ("new-0-1", "bob")])
            marks = [("lobby", "guest-1"), ("new-0-1", "bob")]
            await log._writer.call(lambda db: postgres_writer.sweep(db, marks, OwnLogs()))

        await all_there_is(0)
        await db.execute(
            """
            INSERT INTO events (room, seq, type, "user", key, hidden, text, target, previous_message, ts)
            SELECT
                id, 1000 + n, CASE WHEN n % 2 = 0 THEN 'message' ELSE 'edited' END, 'alice', 'k' || n, false, '', 1000,
                CASE WHEN n % 2 = 1 THEN 999 + n END, 1
            FROM rooms, generate_series(100, 5000) AS n WHERE name NOT LIKE '~%'
            """
        )
        await db.execute(
            "INSERT INTO settled SELECT id, 6000 FROM rooms ON CONFLICT (room) DO UPDATE SET seq = excluded.seq"
        )
        await db.execute("INSERT INTO rooms (name) SELECT 'room-' || n FROM generate_series(1, 10000) AS n")
        await db.execute(
            "INSERT INTO marks "
            "SELECT id, 'user-' || n, 1, 9999999999 FROM rooms, generate_series(1, 100) AS n LIMIT 10000"
        )
        await db.execute("INSERT INTO erasures SELECT id, n, 0 FROM rooms, generate_series(1, 100) AS n LIMIT 10000")
        await db.execute("INSERT INTO amendments SELECT 1, n, '', 1 FROM generate_series(1000, 10000) AS n")
        await db.execute("INSERT INTO reactions SELECT 1, n, '+', 'bob' FROM generate_series(1000, 10000) AS n")
        await all_there_is(1)
        before = await rows_looked_at()
        await all_there_is(2)
        assert await rows_looked_at() - before < 1000
    await db.close()


# Trouble


@pytest.mark.parametrize("trouble", ["fast", "immediate", "kill"])
async def test_a_restart_in_the_middle_of_load(
    own_postgres: PostgresServer, trouble: Literal["fast", "immediate", "kill"]
) -> None:
    database = own_postgres.create_database("chat")
    async with opened(database, 2) as logs:
        acked: dict[str, int] = {}
        going = True

        async def send(log: PostgresLog, name: str) -> None:
            number = 0
            while going:
                keys = [f"{name}-{number}-{place}" for place in range(5)]
                number += 1
                for key, outcome in zip(
                    keys, await persistent(log, [message(key, key=key) for key in keys]), strict=True
                ):
                    acked[key] = outcome.seq

        async def look() -> None:
            while going:
                try:
                    await log.heads(["lobby"])
                except LogUnavailable:
                    await asyncio.sleep(0.01)

        log = logs[0]
        senders = [asyncio.ensure_future(send(log, f"worker-{number}")) for number, log in enumerate(logs)]
        senders.append(asyncio.ensure_future(look()))
        for _ in range(2):
            before = len(acked)
            await eventually(lambda: len(acked) > before + 100)  # noqa: B023 - it is over before the next round
            if trouble == "kill":
                await asyncio.to_thread(own_postgres.kill)
                await asyncio.to_thread(own_postgres.start)
            else:
                await asyncio.to_thread(own_postgres.restart, trouble)
        before = len(acked)
        await eventually(lambda: len(acked) > before + 100)
        going = False
        await asyncio.gather(*senders)
        events = await everything(log)
        assert {event["id"]: event["seq"] for event in events} == acked
        assert len(events) == len(acked)


async def test_a_start_that_fails_leaves_nothing_running(own_postgres: PostgresServer) -> None:
    database = own_postgres.create_database("chat")
    tasks = asyncio.all_tasks()
    PostgresLog(database, 10.0)
    assert asyncio.all_tasks() == tasks
    own_postgres.kill()
    with pytest.raises(LogUnavailable):
        await open_postgres(database)
    assert asyncio.all_tasks() == tasks


async def test_a_server_that_is_away_is_said_at_once_and_found_again(own_postgres: PostgresServer) -> None:
    async with opened(own_postgres.create_database("chat")) as (log,):
        await append(log, message("one"))
        own_postgres.stop()
        for asked in (log.append([message()]), log.heads(["lobby"]), log.probe()):
            with pytest.raises(
                LogUnavailable, match=rf"PostgreSQL at postgresql://chat@127.0.0.1:{own_postgres.port}/chat: "
            ):
                await asyncio.wait_for(asked, 2)
        own_postgres.start()
        await log.probe()
        assert await said(log) == ["one"]


async def test_a_server_that_stands_still_fails_calls_by_their_time_limit(own_postgres: PostgresServer) -> None:
    async with opened(own_postgres.create_database("chat"), timeout=1.0) as (log,):
        await append(log, message("one", key="a"))
        own_postgres.pause()
        try:
            async with asyncio.timeout(5):
                writes = [log.append([message("two", key="b")]), log.append([message("three", key="c")])]
                reads = [log.heads(["lobby"]) for _ in range(20)]
                for failure in await asyncio.gather(*writes, *reads, return_exceptions=True):
                    assert isinstance(failure, LogUnavailable)
                    assert "no answer within 1 s" in str(failure)
        finally:
            own_postgres.resume()
        outcomes = await persistent(log, [message("two", key="b"), message("three", key="c")])
        assert sorted(await said(log)) == ["one", "three", "two"]
        assert sorted(outcome.seq for outcome in outcomes) == [2, 3]


async def test_a_commit_whose_answer_is_lost_is_there_once(postgres_url: str, postgres_server: PostgresServer) -> None:
    async with Proxy("127.0.0.1", postgres_server.port) as proxy, opened(postgres_url) as (watching,):
        through = postgres_url.replace(f":{postgres_server.port}/", f":{proxy.port}/")
        async with opened(through) as (log,):
            await append(log, message("one"))
            proxy.delay(30)
            waiting = asyncio.ensure_future(log.append([message("two", key="b"), message("three", key="c")]))
            await comes_to(lambda: watching.heads(["lobby"]), {"lobby": 3})
            assert not waiting.done()
            proxy.cut()
            with pytest.raises(LogUnavailable):
                await waiting
            proxy.delay(0)
            outcomes = await append(log, message("two", key="b"), message("three", key="c"), message("four"))
            assert [(outcome.seq, outcome.duplicate) for outcome in outcomes] == [(2, True), (3, True), (4, False)]
            assert await said(log) == ["one", "two", "three", "four"]


async def test_a_lock_that_is_not_given_back_in_time(postgres_url: str) -> None:
    async with opened(postgres_url, timeout=1.5) as (log,), opened(postgres_url) as (other,):
        await append(log, message("one"), message(room="den"))
        async with held(postgres_url) as db:
            with pytest.raises(LogUnavailable, match="no answer within"):
                await log.append([message("two", key="b")])
            await append(other, message(room="den"))  # other rooms are not touched by it
            assert await said(other) == ["one"]
            await waiting_for_locks(db, 0)  # nor does the server wait on, for nobody
        assert (await append(log, message("two", key="b")))[0].seq == 2


async def test_calls_beyond_the_limit_fail_at_once(postgres_url: str) -> None:
    async with opened(postgres_url, timeout=60.0) as (log,):
        async with held(postgres_url) as db:
            writes = [asyncio.ensure_future(append(log, message(str(number)))) for number in range(WAITING_WRITES)]
            await waiting_for_locks(db, 1)
            with pytest.raises(LogUnavailable, match=f"{WAITING_WRITES} calls wait for the log's writer already"):
                await log.append([message()])
            assert await log.heads(["lobby"]) == {"lobby": 0}  # readers do not wait for writers
        assert [(await task)[0].seq for task in writes] == list(range(1, WAITING_WRITES + 1))
        reads = [asyncio.ensure_future(log.heads(["lobby"])) for _ in range(WAITING_READS)]
        await asyncio.sleep(0)
        with pytest.raises(LogUnavailable, match=f"{WAITING_READS} calls wait for the log's lookups already"):
            await log.heads(["lobby"])
        assert await asyncio.gather(*reads) == [{"lobby": WAITING_WRITES}] * WAITING_READS


async def test_what_is_small_does_not_wait_for_histories(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tornado_chat.log.postgres.WAITING_HISTORIES", 9)
    db = await asyncpg.connect(postgres_url)
    async with opened(postgres_url) as (log,):
        await append(log, message(), read_mark(1))
        async with db.transaction():
            await db.execute("LOCK TABLE amendments")  # which only histories look at
            asked = [log.history("lobby", before=None, limit=9, max_bytes=MIB) for _ in range(9)]
            histories = [asyncio.ensure_future(history) for history in asked]
            await waiting_for_locks(db, 1)
            with pytest.raises(LogUnavailable, match="9 calls wait for the log's histories already"):
                await log.history("lobby", before=None, limit=9, max_bytes=MIB)
            assert await log.heads(["lobby"]) == {"lobby": 1}
            assert await log.marks([("lobby", "alice")]) == {("lobby", "alice"): 1}
            assert await log.revocations(0) == []
            assert len(await everything(log)) == 1
            delays = log.delays()
            assert delays.pop("histories") > 0
            assert set(delays.values()) == {0.0}
        assert all(len(messages) == 1 for messages, _ in await asyncio.gather(*histories))
        assert set(log.delays().values()) == {0.0}
    await db.close()


async def test_workers_that_sweep_and_write_at_the_same_time(postgres_url: str) -> None:
    guests = [f"guest-{number}" for number in range(20)]
    async with opened(postgres_url, 3) as logs:
        await append(logs[0], *(message() for _ in range(10)), *(guests_mark(1, guest) for guest in guests))
        for target in range(1, 11):
            await append(logs[0], *(edited(target) for _ in range(50)))
        await append(logs[0], *(deleted(target) for target in range(1, 11)))
        db = await asyncpg.connect(postgres_url)
        await db.execute("UPDATE marks SET lapses = lapses - 20 * 86400")

        async def sweep(log: PostgresLog) -> None:
            await log.marks([("lobby", guest) for guest in random.sample(guests, 15)])
            while await log.sweep():
                pass

        async def write(log: PostgresLog, seq: int) -> None:
            for guest in random.sample(guests, 20):
                await append(log, guests_mark(seq, guest), message())

        await asyncio.gather(*(sweep(log) for log in logs), *(write(log, 20 + n) for n, log in enumerate(logs)))
        while await logs[0].sweep():
            pass
        assert await db.fetchval("SELECT count(*) FROM erasures") == 0
        assert await db.fetchval("SELECT count(text) FROM events WHERE type = 'edited'") == 0
        assert await db.fetchval("SELECT count(*) FROM marks WHERE seq = 22") == 20
        await db.close()


async def test_sweeping_waits_for_nobody(postgres_url: str) -> None:
    """Or two workers that lock several marks in different orders would wait for each other."""
    guests = ["guest-1", "guest-2", "guest-3"]
    db = await asyncpg.connect(postgres_url)
    async with opened(postgres_url) as (log,):
        await append(log, message(), *(guests_mark(1, guest) for guest in guests))
        await append(log, *(edited(1) for _ in range(70)))
        await append(log, deleted(1))
        left = "SELECT (SELECT count(*) FROM marks) || ' marks, ' || (SELECT count(*) FROM erasures) || ' erasures'"
        for table, then in (("erasures", "1 marks, 1 erasures"), ("marks", "1 marks, 0 erasures")):
            await db.execute("UPDATE marks SET lapses = 1")
            async with db.transaction():
                await db.execute(f"SELECT * FROM {table} FOR UPDATE")
                await log.marks([("lobby", "guest-1")])
                while await log.sweep():
                    pass
            assert await db.fetchval(left) == then
    await db.close()


async def test_a_caller_who_goes_away_harms_nobody(postgres_url: str) -> None:
    async with opened(postgres_url) as (log,):
        async with held(postgres_url) as db:
            first, second, third = (asyncio.ensure_future(append(log, message(text))) for text in ("1", "2", "3"))
            await waiting_for_locks(db, 1)
            first.cancel()  # under way: it is committed
            second.cancel()  # not begun: it never will be
            await asyncio.sleep(0)
        assert (await third)[0].seq == 2
        assert await said(log) == ["1", "3"]


async def test_connections_are_few_and_stay(postgres_url: str) -> None:
    db = await asyncpg.connect(postgres_url)

    async def connections() -> list[int]:
        query = (
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'tornado_chat' AND datname = current_database()"
        )
        return [pid for (pid,) in await db.fetch(query)]

    async with opened(postgres_url) as (log,):
        assert len(await connections()) == 1
        await append(log, message())
        for _ in range(50):
            asked = [log.read("lobby", 0, max_events=9, max_bytes=MIB) for _ in range(10)]
            await asyncio.gather(
                *asked, log.heads(["lobby"]), log.history("lobby", before=None, limit=9, max_bytes=MIB)
            )
        before = await connections()
        assert len(before) == 1 + 1 + PAGE_READERS + 1
        outcomes = await log.append([message("\0"), message()])  # refused data is no reason to connect again
        assert [isinstance(outcome, ChatError) for outcome in outcomes] == [True, False]
        assert await connections() == before
    await comes_to(connections, [])
    await db.close()


async def test_a_log_that_cannot_be_written_says_so(postgres_url: str) -> None:
    async with opened(postgres_url) as (log,):
        await append(log, message("one"))
    db = await asyncpg.connect(postgres_url)
    name = urlsplit(postgres_url).path[1:]
    await db.execute(f"ALTER DATABASE {name} SET default_transaction_read_only TO on")  # as a standby is
    async with opened(postgres_url) as (log,):
        for asked in (log.probe(), log.append([message("two", key="b")]), log.revoke("session")):
            with pytest.raises(LogUnavailable, match="read-only transaction"):
                await asked
        assert await said(log) == ["one"]
        await db.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        await log.probe()  # on a connection of its own: what was refused so is not asked again
        assert (await append(log, message("two", key="b")))[0].seq == 2
    await db.close()


async def test_a_new_epoch_is_what_the_next_process_finds(postgres_url: str) -> None:
    async with opened(postgres_url, 2) as (log, other):
        assert log.epoch == other.epoch
        old = log.epoch
        assert await log.new_epoch() == log.epoch != old
        async with opened(postgres_url) as (later,):
            assert later.epoch == log.epoch


@pytest.mark.parametrize(
    "poison",
    [message("\0"), message(key="a\0"), message(user="\0"), message(room="\0"), edited(1, "x\0"), message("\ud800")],
)
async def test_what_postgresql_cannot_hold_fails_alone(postgres_url: str, poison: Entry) -> None:
    async with opened(postgres_url) as (log,):
        await append(log, message("zero"))
        outcomes = await log.append([message("one", key="a"), edited(1, "nil"), poison, message("two"), read_mark(9)])
        refused = [outcome for outcome in outcomes if isinstance(outcome, ChatError)]
        assert refused == [outcomes[2]]
        assert refused[0].code == ErrorCode.BAD_REQUEST
        assert len(refused[0].message) < 300
        assert await said(log) == ["zero", "one", "nil", "two"]
        again = await log.append([poison, message("one", key="a")])
        assert isinstance(again[0], ChatError)
        assert isinstance(again[1], Appended)
        assert again[1].duplicate


# At the start


async def test_a_wrong_password_is_not_repeated(own_postgres: PostgresServer) -> None:
    database = own_postgres.create_database("chat")
    password = urlsplit(database).password
    assert password
    wrong = database.replace(password, "not-the-password")
    with pytest.raises(ConfigError, match=r"chat@127\.0\.0\.1") as raised:
        await open_postgres(wrong)
    assert "not-the-password" not in str(raised.value)
    async with opened(database) as (log,):
        own_postgres.stop()
        with pytest.raises(LogUnavailable) as failed:
            await log.probe()
        assert password not in str(failed.value)
    with pytest.raises(LogUnavailable) as failed:  # it may be back in a moment: no setting is wrong
        await open_postgres(database)
    assert password not in str(failed.value)
    assert "\n" not in str(failed.value)
    with pytest.raises(ConfigError, match="written as %XX") as raised:
        await open_postgres("postgresql://chat:half/of@127.0.0.1:1/chat")
    assert "half" not in str(raised.value)


async def test_a_database_that_cannot_hold_all_texts(own_postgres: PostgresServer) -> None:
    db = await asyncpg.connect(own_postgres.url)
    await db.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
    await db.close()
    with pytest.raises(ConfigError, match="its encoding is LATIN1"):
        await open_postgres(own_postgres.url_of("latin"))


# The server that the tests and `verify` start


def test_a_server_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("tornado_chat.verify.postgres_server.INSTALLED", f"{tmp_path}/*/bin")
    with pytest.raises(ConfigError, match="Debian's package is `postgresql`"):
        PostgresServer(tmp_path)


def test_a_server_that_does_not_start_says_why(own_postgres: PostgresServer) -> None:
    own_postgres.stop()
    (own_postgres.directory / "data" / "postgresql.auto.conf").write_text("max_connections = many\n")
    with pytest.raises(ConfigError, match=r"ended at once; it said: .*max_connections"):
        own_postgres.start()


async def test_a_server_keeps_its_port_and_data_whatever_is_done_to_it(own_postgres: PostgresServer) -> None:
    database = own_postgres.create_database("chat")
    async with opened(database, timeout=5) as (log,):
        for number, hurt in enumerate((own_postgres.restart, own_postgres.kill, own_postgres.pause, own_postgres.stop)):
            await persistent(log, [message(str(number))])
            hurt()
            if hurt == own_postgres.pause:
                own_postgres.stop("immediate")  # what stands still is stopped as well
            if hurt != own_postgres.restart:
                own_postgres.start()
        await persistent(log, [message("4")])
        assert await said(log) == ["0", "1", "2", "3", "4"]
        assert own_postgres.url_of("chat") == database
    own_postgres.drop_database("chat")
    with pytest.raises(ConfigError, match="does not exist"):
        await open_postgres(database)
