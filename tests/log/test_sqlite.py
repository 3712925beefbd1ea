"""What can go wrong with an SQLite log's disk and locks, and what it costs."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.support.chat import eventually
from tests.support.entries import MIB, append, deleted, edited, everything, message, reacted, read_mark
from tests.support.sqlite_files import child, make, put, refusal, sizes
from tornado_chat.errors import LogUnavailable
from tornado_chat.log import Appended, own, sqlite_writer
from tornado_chat.log import sqlite as sqlite_module
from tornado_chat.log.sqlite import SQLiteLog, open_sqlite
from tornado_chat.log.sqlite_reader import Reader
from tornado_chat.log.sqlite_writer import Writer
from tornado_chat.log.sweeping import EDITS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chat.db"


# Locks


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Another connection in the middle of writing."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN EXCLUSIVE")
        yield
        db.execute("ROLLBACK")


async def test_a_locked_file_refuses_writers_and_lets_readers_read(path: Path) -> None:
    log = await open_sqlite(str(path), timeout=0.4)
    await append(log, message("one", key="a"))
    with held(path):
        waiting = asyncio.ensure_future(log.append([message("two", key="b"), edited(1, "uno"), message(room="den")]))
        await asyncio.sleep(0)
        assert [event.data["text"] for event in await log.read("lobby", 0, max_events=9, max_bytes=MIB)] == ["one"]
        assert await log.heads(["lobby", "den"]) == {"lobby": 1, "den": 0}
        assert not waiting.done()
        with pytest.raises(LogUnavailable, match="locked"):
            await waiting
        with pytest.raises(LogUnavailable, match="locked"):
            await log.append([message("two", key="b")])
        with pytest.raises(LogUnavailable, match="locked"):
            await log.probe()
    await log.probe()
    outcomes = await append(log, message("two", key="b"), edited(1, "uno"), message(room="den"))
    assert [(outcome.seq, outcome.duplicate) for outcome in outcomes] == [(2, False), (3, False), (1, False)]
    assert len(await everything(log)) == 3
    await log.close()


async def test_a_lock_that_is_let_go_in_time_is_only_a_wait(path: Path) -> None:
    log = await open_sqlite(str(path), timeout=20)
    await append(log, message("one"))
    with held(path):
        waiting = asyncio.ensure_future(append(log, message("two")))
        await log.heads(["lobby"])
    assert (await waiting)[0].seq == 2
    await log.close()


async def test_a_file_that_is_locked_at_the_start(path: Path) -> None:
    await make(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("BEGIN EXCLUSIVE")
        assert "another process" in await refusal(path)


async def test_another_writer_takes_no_number_twice(path: Path) -> None:
    one, two = await open_sqlite(str(path)), await open_sqlite(str(path))
    for number in range(20):
        for log in (one, two):
            await append(log, message(f"{number}"), message(f"{number}", key=f"{number}-{id(log)}"))
            await append(log, message(f"{number}"), reacted(1), read_mark(10**6))
    events = await everything(one)
    assert [event["text"] for event in events if event["type"] == "message"] == [
        str(number) for number in range(20) for _ in range(6)
    ]
    await one.close()
    assert await everything(two) == events
    await two.close()


TAKES_ITS_TURN = """
import sys
from tornado_chat.log.sqlite_turn import Turn
with Turn(sys.argv[1]):
    print("it has it", flush=True)
    sys.stdin.read()
"""


def in_its_turn(path: Path) -> subprocess.Popen[str]:
    """Another process in the middle of its turn, until its input ends or it is killed."""
    process = child(TAKES_ITS_TURN, str(path), stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "it has it\n"
    return process


def waits_for_its_turn(path: Path) -> bool:
    """Whether some thread waits for the lock, by proc(5), locks."""
    file = f":{os.stat(f'{path}-wal').st_ino} "
    return any(" -> " in line and file in line for line in Path("/proc/locks").read_text().splitlines())


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="tells by proc(5) who waits, which Linux has")
@pytest.mark.parametrize("how", ["lets it go", "is killed"])
async def test_a_writer_waits_for_its_turn(path: Path, how: str) -> None:
    log = await open_sqlite(str(path))
    await append(log, message("one"))
    other = in_its_turn(path)
    writes = [asyncio.ensure_future(write) for write in (append(log, message("two")), log.revoke("a"), log.probe())]
    assert await log.heads(["lobby"]) == {"lobby": 1}  # who reads waits for nobody's turn
    await eventually(lambda: waits_for_its_turn(path))
    assert not any(write.done() for write in writes)
    if how == "is killed":
        other.kill()
    other.communicate()
    await asyncio.gather(*writes)
    assert await log.heads(["lobby"]) == {"lobby": 2}
    await log.close()


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="tells by proc(5) who waits, which Linux has")
async def test_what_comes_while_it_waits_for_its_turn_goes_along(path: Path) -> None:
    log = await open_sqlite(str(path))
    await append(log, message("zero"))
    other = in_its_turn(path)
    batch = [message("0")]
    writing = asyncio.ensure_future(log.append(batch, 4))
    await eventually(lambda: waits_for_its_turn(path))
    batch += [message(str(number)) for number in range(1, 6)]
    other.communicate()
    assert len(await writing) == 4
    assert [event["text"] for event in await everything(log)] == ["zero", "0", "1", "2", "3"]
    assert log._unchecked == 5
    await log.close()


async def test_a_process_that_stands_still_in_its_turn_costs_the_others_their_time_limit(path: Path) -> None:
    log = await open_sqlite(str(path), timeout=0.2)
    await append(log, message("one"))
    other = in_its_turn(path)
    other.send_signal(signal.SIGSTOP)
    for _ in range(2):
        with pytest.raises(LogUnavailable, match=r"no answer from the log's writer within 0\.2 s"):
            await log.append([message("two", key="a")])
    other.kill()
    other.communicate()
    await eventually(lambda: not log.delays()["writer"])
    (outcome,) = await append(log, message("two", key="a"))
    assert outcome.seq == 2
    await log.close()


async def test_two_processes_write_in_turns(path: Path) -> None:
    """By SQLite's own waiting one of them starves: all 50 commits go before or after the other's."""
    log = await open_sqlite(str(path))
    other = child(APPEND, str(path), "0")
    assert other.stdout is not None
    other.stdout.readline()
    for _ in range(50):
        await append(log, message("mine", room="room-0"))
    other.kill()
    other.communicate()
    # Of its commits each has one event that ends with -0 there.
    ids = [event.get("id", "mine") for event in await everything(log, "room-0") if event["type"] == "message"]
    between = ids[ids.index("mine") : len(ids) - ids[::-1].index("mine")]
    assert between.count("mine") == 50
    assert 25 < sum(id.endswith("-0") for id in between) < 100
    await log.close()


# The disk


@contextmanager
def small_disk(directory: Path, size: str) -> Iterator[Path]:
    """A file system that is soon full; only root can mount one."""
    directory.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", directory], capture_output=True)
    if mount.returncode != 0:
        pytest.skip(f"a file system cannot be mounted here: {mount.stderr.decode().strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", directory], check=True)


async def test_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "2m") as disk:
        log = await open_sqlite(str(disk / "chat.db"))
        await append(log, message("zero", key="zero"))
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * (1 << 20))
        acked: list[tuple[int, str]] = []

        async def fill() -> None:
            for number in range(1000):
                (outcome,) = await append(log, message("x" * 4000, key=f"k{number}"))
                acked.append((outcome.seq, f"k{number}"))

        with pytest.raises(LogUnavailable, match="full"):
            await fill()
        for batch in ([message("y" * 4000)], [message("y" * 4000, room="den"), edited(1, "y" * 4000)]):
            with pytest.raises(LogUnavailable, match="full"):
                await log.append(batch)
        assert acked
        assert [(event["seq"], event["id"]) for event in await everything(log)][1:] == acked
        ballast.unlink()
        again, new = await append(log, message("zero", key="zero"), message("new", key="new"))
        assert (again.seq, again.duplicate, new.seq) == (1, True, len(acked) + 2)
        assert await log.heads(["den"]) == {"den": 0}
        await log.close()
        assert sizes(disk / "chat.db").keys() == {"chat.db"}


async def test_a_file_that_may_not_grow(path: Path) -> None:
    """The same without root: SQLite's own limit gives the same error."""
    await make(path)
    writer = Writer(str(path), 1, 1)
    pages = writer.db.execute("PRAGMA page_count").fetchone()[0]
    writer.db.execute(f"PRAGMA max_page_count = {pages + 2}")
    head = 3
    for batch in ([message("x" * 100_000)], [message("x" * 100_000), reacted(1), message(room="den")]):
        writer.append([message("small")])
        with pytest.raises(LogUnavailable, match="full"):
            writer.append(batch)
        assert not writer.db.in_transaction
        head += 2
        (outcome,) = writer.append([message("small")])
        assert isinstance(outcome, Appended)
        assert outcome.seq == head  # what failed took no number
    writer.close()


@pytest.mark.parametrize("journal", ["", "-wal"])
async def test_a_file_that_is_gone_takes_no_appends(path: Path, journal: str) -> None:
    log = await open_sqlite(str(path))
    await append(log, message("one", key="a"))
    file, aside = Path(f"{path}{journal}"), path.with_name("aside")
    os.rename(file, aside)
    for _ in range(2):
        with pytest.raises(LogUnavailable, match="moved"):
            await log.append([message("two", key="b")])
        for look in (log.probe(), log.heads(["lobby"]), log.revocations(0), log.read_epoch(), log.revoke("a")):
            with pytest.raises(LogUnavailable, match="moved"):
                await look
    put(file, b"")  # something else in its place
    with pytest.raises(LogUnavailable, match="moved"):
        await log.append([message("two", key="b")])
    os.rename(aside, file)
    outcomes = await append(log, message("two", key="b"), message("three"))
    assert [outcome.seq for outcome in outcomes] == [2, 3]
    await log.close()


APPEND = """
import asyncio, sys
from tornado_chat.log import Entry
from tornado_chat.log.sqlite import open_sqlite
async def main():
    log = await open_sqlite(sys.argv[1])
    number = int(sys.argv[2])
    while True:
        size = number % 7 + 1
        keys = [f"k{number}-{i}" for i in range(size)]
        batch = [
            Entry("message", f"room-{i % 2}", "alice", "Alice", key=key, id=key, text="x" * 50)
            for i, key in enumerate(keys)
        ]
        if number % 5 == 0:
            batch.append(Entry("reacted", "room-0", "alice", "Alice", key=f"r{number}", target=1, emoji="+1", on=True))
        for entry, outcome in zip(batch, await log.append(batch)):
            sys.stdout.write(f"{entry.room} {outcome.seq} {entry.key}\\n")
        sys.stdout.flush()
        number += 1
asyncio.run(main())
"""


async def test_kill_9_loses_nothing_that_was_acknowledged(path: Path) -> None:
    acked: dict[tuple[str, int], str] = {}
    for life in range(20):
        process = child(APPEND, str(path), str(life * 100_000))
        assert process.stdout is not None
        assert process.stderr is not None
        lines = [process.stdout.readline() for _ in range(10 + life * 13)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
        process.stdout.close()
        assert process.stderr.read() == ""
        process.stderr.close()
        assert process.wait() == -signal.SIGKILL
        for line in lines:
            if line.endswith("\n"):
                room, seq, key = line.split()
                assert (room, int(seq)) not in acked
                acked[room, int(seq)] = key
        log = await open_sqlite(str(path))
        kept: dict[tuple[str, int], str] = {}
        for room in ("room-0", "room-1"):
            for event in await everything(log, room):
                kept[room, event["seq"]] = event.get("id", "")
        assert all(key == kept[place] or kept[place] == "" for place, key in acked.items())
        ids = [key for key in kept.values() if key]
        assert len(ids) == len(set(ids))
        await log.close()
    assert len(acked) > 2000


# The write-ahead log


async def settled(log: SQLiteLog) -> None:
    await eventually(lambda: log._checkpoint is None or log._checkpoint.done())


async def test_the_write_ahead_log_stays_small_beside_readers(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_module, "CHECKPOINT_ENTRIES", 200)
    log = await open_sqlite(str(path))
    done = False

    async def reader() -> None:
        while not done:
            await log.read("lobby", 0, max_events=50, max_bytes=MIB)

    readers = [asyncio.ensure_future(reader()) for _ in range(4)]
    biggest = 0
    for _ in range(400):
        await append(log, *(message("x" * 500) for _ in range(20)))
        biggest = max(biggest, sizes(path)["chat.db-wal"])
    done = True
    await asyncio.gather(*readers)
    await settled(log)
    total = sizes(path)["chat.db"]
    assert total > 4 * MIB
    assert biggest < total / 2
    await log.close()


async def test_an_erased_text_leaves_no_byte_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_module, "CHECKPOINT_SECONDS", 0.02)
    log = await open_sqlite(str(path))
    await append(log, *(message(f"SECRET-{number}" + "x" * 300, meta={"m": "SECRET"}) for number in range(50)))
    await append(log, *(edited(number, "SECRET" * 50) for number in range(1, 51)))
    await append(log, *(edited(1, "SECRET" * 50) for _ in range(3 * EDITS)))

    def found() -> bool:
        return any(b"SECRET" in file.read_bytes() for file in path.parent.iterdir())

    assert found()
    await append(log, *(deleted(number) for number in range(1, 51)))
    while await log.sweep():
        pass
    await eventually(lambda: not found())
    assert len(await everything(log)) == 150 + 3 * EDITS
    await log.close()
    assert not found()


@pytest.mark.logs("checkpoint failed: .*interrupted")
async def test_a_checkpoint_that_fails_is_tried_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_module, "CHECKPOINT_SECONDS", 0.02)
    restart = Writer.restart_journal
    calls = []

    def failing(writer: Writer) -> bool:
        calls.append(1)
        if len(calls) == 1:
            raise LogUnavailable("SQLite: interrupted")
        return len(calls) > 2 and restart(writer)

    monkeypatch.setattr(Writer, "restart_journal", failing)
    log = await open_sqlite(str(path))
    await append(log, message())
    await eventually(lambda: len(calls) >= 3)
    await settled(log)
    await log.close()


# What it costs


def steps_of(dbs: Iterable[sqlite3.Connection], action: Callable[[str], object], room: str) -> int:
    """How many of SQLite's own steps `action` takes in `room`."""
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    for db in dbs:
        db.set_progress_handler(step, 1)
    action(room)
    for db in dbs:
        db.set_progress_handler(None, 0)
    return steps


def test_what_is_asked_of_a_room_costs_the_same_however_much_stands_there(path: Path) -> None:
    writer, reader = Writer(str(path), 1, 1), Reader(str(path), 1)
    writer.append([message(room=room) for room in ("quiet", "busy") for _ in range(20)])
    for number in range(20):
        writer.append([reacted(5, on=bool(number % 2), room="busy") for _ in range(200)])
        writer.append([edited(6, f"edit {number}", room="busy") for _ in range(200)])
    writer.append([message(room=room) for room in ("quiet", "busy") for _ in range(20)])
    actions: list[Callable[[str], object]] = [
        lambda room: reader.history(room, None, 39, MIB),
        lambda room: reader.read(room, 7, None, 10, MIB),
        lambda room: reader.heads([room]),
        lambda room: writer.append([edited(2, "new", room=room)]),
        lambda room: writer.append([deleted(2, room=room)]),
        lambda room: writer.append([reacted(3, room=room), message(room=room)]),
    ]
    for action in actions:
        quiet, busy = (steps_of((writer.db, reader.db), action, room) for room in ("quiet", "busy"))
        assert 0 < busy < quiet * 1.2
    writer.close()
    reader.close()


def test_a_batch_of_new_messages_is_one_statement(path: Path) -> None:
    writer = Writer(str(path), 1, 1)
    writer.append([message()])
    statements: list[str] = []
    writer.db.set_trace_callback(statements.append)
    for size in (1, 7, 100):
        statements.clear()
        writer.append([message() for _ in range(size)])
        assert len(statements) == 1
    statements.clear()
    writer.append([message() for _ in range(512)])
    assert len(statements) == 5  # one transaction: it settles the senders' marks, too
    statements.clear()
    writer.append([message(), read_mark(1), message(), read_mark(1, "bob")])
    assert not any("e.key" in statement for statement in statements)  # no looking for duplicates
    writer.close()


def test_no_batch_is_done_twice_while_two_write_in_turns(path: Path) -> None:
    writers = [Writer(str(path), 1, 1) for _ in range(2)]
    statements: list[str] = []
    for _ in range(2):
        for writer in writers:
            writer.append([message()])
    for writer in writers:
        writer.db.set_trace_callback(statements.append)
    for _ in range(3):
        for writer in writers:
            statements.clear()
            writer.append([message(), message()])
            assert sum(statement.startswith("INSERT INTO events") for statement in statements) == 1
            assert not any("wanted.key" in statement for statement in statements)  # no looking for duplicates
    for writer in writers:
        writer.close()


def test_a_busy_room_is_not_looked_through_for_its_senders(path: Path) -> None:
    writer = Writer(str(path), 1, 1)
    writer.append([message(user=f"user-{number}") for number in range(own.SETTLED - 10)])
    statements: list[str] = []
    writer.db.set_trace_callback(statements.append)
    for number in range(20):
        writer.append([message(user=f"user-{number}")])
        writer.append([read_mark(number, f"user-{number}")])
    assert sum("INSERT INTO marks" in statement for statement in statements) == 1  # of all who sent
    assert not any('"on" IS NULL' in statement for statement in statements)
    writer.close()


def test_senders_that_are_remembered_are_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_writer, "CACHED_SENDERS", 100)
    writer, reader = Writer(str(path), 1, 1), Reader(str(path), 1)
    for turn in range(3 * own.SETTLED // 30):
        writer.append([message(user=f"user-{number}", room=f"room-{number % 3}") for number in range(turn, turn + 30)])
        assert sum(len(head.senders or ()) for head in writer._heads.values()) <= 130
        (outcome,) = writer.append([read_mark(1, f"user-{turn}", f"room-{turn % 3}")])
        assert isinstance(outcome, Appended)
        assert not outcome.changed
        ((*_, mark, _),) = reader.marks([(f"room-{turn % 3}", f"user-{turn}")])
        assert mark == outcome.seq > 0
    writer.close()
    reader.close()


async def test_counters(path: Path) -> None:
    log = await open_sqlite(str(path))
    await append(log, message(), message(), message())
    await append(log, message())
    await log.append([])
    await log.read("lobby", 0, max_events=10, max_bytes=MIB)
    assert (log.commits, log.reads) == (2, 1)
    await log.close()
