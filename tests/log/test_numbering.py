"""The messages of a log of before get their numbers, whatever is killed meanwhile."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
from collections.abc import Iterator
from itertools import count

import pytest

from tests.support.databases import age, sql, tables
from tests.support.entries import append, everything, message, past, reacted
from tests.support.log_model import random_entry
from tests.support.sqlite_files import child
from tornado_chat.errors import ConfigError
from tornado_chat.log import Entry, numbering, schema
from tornado_chat.log.migrating import migrate
from tornado_chat.log.opening import open_log
from tornado_chat.log_commands import Progress

pytest_plugins = ["tests.support.database_fixtures", "tests.support.postgres_servers"]

TIMEOUT = 60.0
NEWEST = max(schema.revisions("sqlite"))
ROOMS = [f"room-{number}" for number in range(12)]

# Pieces of a few events; each says how far it is, inside its transaction, and waits for a line before it is committed.
MIGRATE = """
import sys
from tornado_chat.log import migrating, numbering
numbering.PIECE = 2
def report(done, total):
    print("piece", done, total, flush=True)
    sys.stdin.readline()
print(*migrating.migrate(sys.argv[1], report))
"""


async def fill(database: str, seed: int) -> list[list[dict[str, object]]]:
    """Rooms of all lengths, among them empty ones, and ones without and with nothing but messages; what is in them."""
    dice = random.Random(seed)
    log = await open_log(database)
    for number, room in enumerate(ROOMS):
        for head in range(dice.choice((0, 1, 5, 40))):
            entry: Entry = random_entry(dice, head, plain=number % 3 == 0)
            entry.room = room
            await log.append([entry])
    await append(log, message(room="last"), *(reacted(1, room="last") for _ in range(7)))
    found = [await everything(log, room) for room in (*ROOMS, "last")]
    await log.close()
    return found


def numbers(events: list[dict[str, object]]) -> list[int | None]:
    messages = count(1)
    return [next(messages) if event["type"] == "message" else None for event in events]


async def contents(database: str) -> list[list[dict[str, object]]]:
    log = await open_log(database)
    try:
        for room in (*ROOMS, "last"):
            told = [(event["seq"], event["n"]) for event in await everything(log, room) if event["type"] == "message"]
            assert [(event["seq"], event["n"]) for event in await past(log, room)] == told
        return [await everything(log, room) for room in (*ROOMS, "last")]
    finally:
        await log.close()


def rows(database: str) -> list[tuple[object, ...]]:
    return sql(database, "SELECT room, seq, number FROM others ORDER BY room, seq")


@pytest.fixture
def process(database: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Those that the test started; killed at its end."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for one in processes:
        one.kill()
        one.communicate()


@pytest.mark.parametrize("seed", range(3))
def test_a_migration_that_is_killed_goes_on_where_it_was(
    database: str, seed: int, process: list[subprocess.Popen[str]]
) -> None:
    """At any piece, before it was committed or after; nothing is counted twice or left out."""
    before = asyncio.run(fill(database, seed))
    assert [[event.get("n") for event in events] for events in before] == [numbers(events) for events in before]
    new, counted = tables(database), rows(database)
    age(database, "0003")
    dice = random.Random(seed)
    kills = 0
    while sql(database, "SELECT version_num FROM alembic_version") != [(NEWEST,)]:
        assert kills < 200, "it goes on and on"
        migration = child(MIGRATE, database, stdin=subprocess.PIPE)
        process.append(migration)
        assert migration.stdin is not None
        assert migration.stdout is not None
        for _ in range(dice.randrange(6)):
            if migration.stdout.readline().startswith("piece"):
                migration.stdin.write("\n")
                migration.stdin.flush()
        migration.send_signal(signal.SIGKILL)
        migration.communicate(timeout=TIMEOUT)
        kills += 1
    assert kills > 3
    assert rows(database) == counted
    assert tables(database) == new
    assert sql(database, "SELECT name FROM meta") == [("epoch",)]
    assert asyncio.run(contents(database)) == before


def test_processes_that_number_together_take_turns(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = asyncio.run(fill(database, 3))
    counted = rows(database)
    age(database, "0003")
    code = MIGRATE.replace("    sys.stdin.readline()\n", "")
    migrations = [child(code, database) for _ in range(3)]
    outputs = [migration.communicate(timeout=TIMEOUT) for migration in migrations]
    assert [(migration.returncode, output[1]) for migration, output in zip(migrations, outputs, strict=True)] == [
        (0, "")
    ] * 3
    pieces = [line for output, _ in outputs for line in output.splitlines()[:-1]]
    assert len(pieces) == len(set(pieces)) > 3, "each was done once"
    assert rows(database) == counted
    assert asyncio.run(contents(database)) == before


def test_nobody_serves_a_log_that_is_half_numbered(database: str, process: list[subprocess.Popen[str]]) -> None:
    asyncio.run(fill(database, 4))
    age(database, "0003")
    migration = child(MIGRATE, database, stdin=subprocess.PIPE)
    process.append(migration)
    assert migration.stdout is not None
    assert migration.stdout.readline()
    migration.kill()
    migration.communicate(timeout=TIMEOUT)
    with pytest.raises(ConfigError) as caught:
        asyncio.run(open_log(database))
    assert str(caught.value).endswith(f"run: tornado-chat migrate --database {schema.shown(database)}")
    assert "\n" not in str(caught.value)
    assert migrate(database, lambda done, total: None) == ("migrating-0004", NEWEST)


OLD_WRITES = {
    "sqlite": "INSERT INTO events (room, seq, type, user, key, hidden, last_message, ts) "
    "VALUES (1, 99, 'reacted', 'u', 'k', 0, 1, 1)",
    "postgresql": "SELECT bases FROM append_messages(1, '{a}', '{1}', '{1}', '{u}', '{u}', '{k}', '{f}', '{t}', "
    "'{NULL}', '{NULL}')",
}


def test_a_process_of_the_version_before_cannot_write_any_more(database: str) -> None:
    asyncio.run(fill(database, 5))
    with pytest.raises(Exception, match=r"last_message|append_messages"):
        sql(database, OLD_WRITES[database.partition(":")[0]])


def test_how_far_it_is_is_told(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    events = asyncio.run(fill(database, 6))
    age(database)
    monkeypatch.setattr(numbering, "PIECE", 7)
    told: list[tuple[int, int]] = []
    migrate(database, lambda done, total: told.append((done, total)))
    total = sum(map(len, events))
    assert told == [*((done, total) for done in range(7, total, 7)), (total, total)]


def test_the_lines_of_progress(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(0.0)
    for done in (100, 500, 1000):
        progress(done, 1000)
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("numbering the messages: 500 of 1000 events, 50 %, about ")
    assert last == "numbering the messages: 1000 of 1000 events, 100 %, about 0 s to go"
    Progress(60.0)(1, 2)
    assert capsys.readouterr().err == "", "what is done in a moment is not told of"
