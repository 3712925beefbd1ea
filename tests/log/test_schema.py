"""How a database becomes a log's: made at a start, migrated by a command, refused where it is another's."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from pathlib import Path

import asyncpg
import pytest

from tests.support import ROOT
from tests.support.databases import age, sql, tables
from tests.support.entries import append, everything, message
from tests.support.sqlite_files import child
from tornado_chat.errors import ConfigError, LogUnavailable
from tornado_chat.log import migrating, schema
from tornado_chat.log.migrating import migrate
from tornado_chat.log.opening import open_log

pytest_plugins = ["tests.support.database_fixtures", "tests.support.postgres_servers"]

TIMEOUT = 60.0

WAIT = "print('ready', flush=True); sys.stdin.readline()\n"
OPEN = (
    "import asyncio, sys, tornado_chat.log.postgres, tornado_chat.log.sqlite\n"
    + WAIT
    + """
from tornado_chat.log.opening import open_log
async def main():
    log = await open_log(sys.argv[1])
    print(log.epoch)
    await log.close()
asyncio.run(main())
print(*sorted({"alembic", "sqlalchemy", "rich"} & set(sys.modules)), file=sys.stderr, end="")
"""
)
MIGRATE = (
    "import sys, tornado_chat.log.migrating, tornado_chat.log.postgres_schema\n"
    + WAIT
    + "from tornado_chat.cli import main; sys.exit(main(['migrate', '--database', sys.argv[1]]))"
)


def unheard(done: int, total: int) -> None:
    """Nobody is told how far a migration is."""


def together(code: str, database: str, count: int = 4) -> list[str]:
    """What so many processes print that do the same at the same time, and do not fail."""
    processes = [child(code, database, stdin=subprocess.PIPE) for _ in range(count)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=TIMEOUT) for process in processes]
    assert [(process.returncode, error) for process, (_, error) in zip(processes, answers, strict=True)] == [
        (0, "")
    ] * count
    return [output for output, _ in answers]


async def filled(database: str) -> str:
    """Some events; returns the epoch."""
    log = await open_log(database)
    await append(log, *(message(f"text {number}") for number in range(3)))
    await log.close()
    return log.epoch


async def kept(database: str) -> str:
    """The epoch, if the events are those of `filled`."""
    log = await open_log(database)
    texts = [event["text"] for event in await everything(log)]
    await log.revoke("session")
    await log.close()
    assert texts == ["text 0", "text 1", "text 2"]
    return log.epoch


def refusals(database: str) -> set[str]:
    """The lines with which a start and a migration refuse `database`."""
    lines = set()
    with pytest.raises(ConfigError) as caught:
        asyncio.run(open_log(database))
    lines.add(str(caught.value))
    with pytest.raises(ConfigError) as caught:
        migrate(database, unheard)
    lines.add(str(caught.value))
    for line in lines:
        assert "\n" not in line
        assert password_of(database) not in line
    return lines


def password_of(database: str) -> str:
    found = re.search(r"//[^:@/]+:([^@]+)@", database)
    return found[1] if found else "no password"


def test_processes_that_start_together_on_an_empty_database_agree(database: str) -> None:
    """They make it without Alembic, whose import takes longer than all of the rest."""
    assert len(set(together(OPEN, database))) == 1
    assert sql(database, "SELECT version_num FROM alembic_version") == [(max(schema.revisions("sqlite")),)]


def test_processes_that_migrate_together_do_it_once(database: str) -> None:
    epoch = asyncio.run(filled(database))
    new = tables(database)
    age(database)
    assert tables(database) != new
    lines = together(MIGRATE, database)
    newest = max(schema.revisions("sqlite"))
    said = sorted(line.split(": ")[1] for line in lines)
    assert said[0] == f"from revision 0001 to {newest}\n"
    assert set(said[1:]) <= {
        f"revision {newest}, nothing to do\n",
        f"revision {newest}, by a migration that was begun before\n",
        f"from revision 0004 to {newest}\n",
    }
    assert not any(password_of(database) in line for line in lines)
    assert tables(database) == new
    assert asyncio.run(kept(database)) == epoch


def test_processes_that_migrate_an_empty_database_together_make_it_once(database: str) -> None:
    lines = together(MIGRATE, database)
    assert sum("was empty" in line for line in lines) == 1
    assert len(sql(database, "SELECT value FROM meta WHERE name = 'epoch'")) == 1
    assert migrate(database, unheard) == ("0008", "0008")


@pytest.mark.parametrize("revision", ["0001", "0002", "0003", "0004", "0005", "0006", "0007"])
def test_an_old_database_is_refused_until_it_is_migrated(database: str, revision: str) -> None:
    epoch = asyncio.run(filled(database))
    new = tables(database)
    age(database, revision)
    before = tables(database)
    with pytest.raises(ConfigError) as caught:
        asyncio.run(open_log(database))
    line = str(caught.value)
    assert f"run: tornado-chat migrate --database {schema.shown(database)}" in line
    assert "\n" not in line
    assert password_of(database) not in line
    assert tables(database) == before
    assert migrate(database, unheard) == (revision, "0008")
    assert tables(database) == new
    assert asyncio.run(kept(database)) == epoch


def test_guests_marks_and_revocations_of_before_the_migration(database: str) -> None:
    asyncio.run(filled(database))
    age(database, "0002")
    users = ("alice", "guest-1", "guest", "guestbook", "guest.x")
    sql(
        database,
        *(f"""INSERT INTO marks (room, "user", seq) VALUES (1, '{user}', 2)""" for user in users),
        "INSERT INTO revocations (jti, expires_at) VALUES ('expired', 1.5)",
        "INSERT INTO revocations (jti, expires_at) VALUES ('for ever', NULL)",
    )
    before = time.time()
    migrate(database, unheard)
    lapses = dict(sql(database, 'SELECT "user", lapses FROM marks'))
    assert before - 1 <= lapses.pop("guest-1") - 31 * 86400 <= time.time() + 1
    assert lapses == dict.fromkeys(("alice", "guest", "guestbook", "guest.x"))

    async def revoked() -> list[str]:
        log = await open_log(database)
        await log.revoke("expired")
        await log.revoke("new")
        found = await log.revocations(0)
        await log.close()
        return [one.jti for one in found]

    assert asyncio.run(revoked()) == ["expired", "for ever", "new"]


def test_a_database_of_a_newer_version_is_refused(database: str) -> None:
    epoch = asyncio.run(filled(database))
    sql(database, "UPDATE alembic_version SET version_num = '9999'")
    (line,) = refusals(database)
    assert "revision 9999" in line
    assert "install the version that wrote it" in line
    sql(database, "UPDATE alembic_version SET version_num = '0008'")
    assert asyncio.run(kept(database)) == epoch


@pytest.mark.parametrize(
    "script",
    [
        ["CREATE TABLE events (day TEXT)"],
        ["CREATE TABLE alembic_version (version_num TEXT)", "INSERT INTO alembic_version VALUES ('0001')"],
        [f"CREATE TABLE {name} (version_num TEXT)" for name in ("alembic_version", "meta", "rooms", "events")],
    ],
)
def test_another_programs_tables_are_left_alone(database: str, script: list[str]) -> None:
    sql(database, *script)
    before = tables(database)
    (line,) = refusals(database)
    assert "another program" in line
    assert tables(database) == before


def test_a_migration_that_fails_leaves_the_database_as_it_was(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    epoch = asyncio.run(filled(database))
    age(database)
    before = tables(database)
    steps = schema.revisions("sqlite" if database.startswith("sqlite:") else "postgresql")
    broken = steps | {"0002": "CREATE TABLE more (x INTEGER);\nCREATE TABLE rooms (x INTEGER)"}
    monkeypatch.setattr(schema, "revisions", lambda _: broken)
    with pytest.raises(ConfigError, match="rooms"):
        migrate(database, unheard)
    monkeypatch.undo()
    assert tables(database) == before
    assert migrate(database, unheard) == ("0001", "0008")
    assert asyncio.run(kept(database)) == epoch


def test_a_migration_does_not_wait_for_ever(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(filled(postgres_url))
    age(postgres_url, "0003")
    monkeypatch.setattr(migrating, "WAIT", "SET LOCAL lock_timeout = 100")

    async def hold_and_migrate() -> None:
        backup = await asyncpg.connect(postgres_url)
        try:
            async with backup.transaction():
                await backup.execute("LOCK TABLE events IN ACCESS SHARE MODE")
                await asyncio.to_thread(migrate, postgres_url, unheard)
        finally:
            await backup.close()

    with pytest.raises(LogUnavailable, match="lock timeout"):
        asyncio.run(hold_and_migrate())
    assert migrate(postgres_url, unheard) == ("0003", "0008")


def test_the_revisions_of_both_databases_are_the_same() -> None:
    known = ["0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008"]
    assert list(schema.revisions("sqlite")) == list(schema.revisions("postgresql")) == known


@pytest.mark.parametrize(
    ("database", "shown"),
    [
        ("postgresql://me:hunter2@db:5432/chat?sslmode=disable&password=hunter2", "postgresql://me@db:5432/chat"),
        ("postgresql://db/chat", "postgresql://db/chat"),
        ("postgresql://me:hun@ter2@[::1]/chat", "postgresql://me@[::1]/chat"),
        ("postgresql://me:1/hunter2@db/chat", "postgresql://me:1"),
        ("sqlite:///data/a#b.db", "sqlite:///data/a#b.db"),
    ],
)
def test_how_a_database_is_shown(database: str, shown: str) -> None:
    assert schema.shown(database) == shown


@pytest.mark.parametrize("command", ["serve", "migrate", "new-epoch", "revoke x"])
def test_a_server_that_is_not_there(command: str, tmp_path: Path) -> None:
    result = cli(command, "postgresql://me:hunter2@127.0.0.1:1/chat", tmp_path)
    assert result.returncode == 1, "no setting is wrong: it may be there in a moment"
    (line,) = result.stderr.splitlines()
    assert line.startswith("tornado-chat: error: database")
    assert "postgresql://me@127.0.0.1:1/chat: " in line
    assert "hunter2" not in line


@pytest.mark.parametrize("command", ["serve", "migrate", "new-epoch", "revoke x"])
def test_what_postgresql_needs_is_not_installed(command: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['asyncpg'] = None\n")
    result = cli(command, "postgresql://me:hunter2@127.0.0.1:1/chat", tmp_path)
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert "pip install 'tornado_chat[postgres]'" in result.stderr


def cli(command: str, database: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "key").write_text("k" * 32)
    more = ["--secret-file", "key", "--port", "0"] if command == "serve" else []
    return subprocess.run(
        [sys.executable, "-m", "tornado_chat", *command.split(), "--database", database, *more],
        cwd=folder,
        env={"PYTHONPATH": f"{folder}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
