"""`tornado-chat copy-log`: exact, goes on after any kill, and says so if the two logs differ."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT
from tests.support.databases import age, sql
from tests.support.entries import MIB, append, deleted, edited, everything, guests_mark, message, plain
from tests.support.log_model import random_entry, random_own_entry
from tests.support.sqlite_files import child
from tornado_chat.errors import ConfigError
from tornado_chat.log import Log
from tornado_chat.log.copying import PAGE_BYTES, PAGE_ROWS, TABLES, _pages
from tornado_chat.log.kinds import AGENT
from tornado_chat.log.opening import open_log, open_webhooks
from tornado_chat.log.store import Row
from tornado_chat.log.sweeping import EDITS

pytest_plugins = ["tests.support.database_fixtures", "tests.support.postgres_servers"]

TIMEOUT = 60.0
USERS = ("alice", "bob", "carol", "guest-1")
ROWS = 7  # of a page
PAGES = (
    "import sys, os, signal\nfrom tornado_chat import copy_progress\nfrom tornado_chat.log import copying as pages\n"
)
RUN = "from tornado_chat.cli import main\nsys.exit(main(['copy-log', *sys.argv[1:3]]))\n"
# Dies with SIGKILL when the page of this number has been written.
KILLED = (
    f"{PAGES}ROWS = {ROWS}"
    """
pages.PAGE_ROWS = ROWS
left = int(sys.argv[3])
def advance(self, rows):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
copy_progress.Lines.advance = advance
""" + RUN
)


@pytest.fixture
def source(tmp_path: Path) -> str:
    """A log with some of everything."""
    database = f"sqlite:///{tmp_path}/source.db"
    asyncio.run(fill(database))
    return database


async def fill(database: str) -> None:
    log = await open_log(database)
    dice = random.Random(1)
    head = 0
    for _ in range(60):
        batch = [random_entry(dice, head, plain=False) for _ in range(5)] + [random_own_entry(dice) for _ in range(5)]
        await log.append(batch)
        head = max((await log.heads(["a", "b"])).values())
    await append(log, message("\u00e9\U0001f600 'quoted' \\", room="c", user="\u00e9", meta={"a": [1, "\0", None]}))
    await append(log, message("again", room="c", key="mine", reply_to=1))
    await append(log, message(room="c", user="bob"), guests_mark(3, "guest-1", "c"))
    await append(log, *(edited(3, f"SECRET {number}", "bob", "c") for number in range(2 * EDITS)))
    await append(log, deleted(3, "bob", "c"))  # some of its edits are still to be erased
    await append(log, *(message("busy", "z", "alice", mentions=("bob",)) for _ in range(1100)))
    await append(log, message("told", "c", "bot", emoji=AGENT), message("told", "c", "bot", emoji=AGENT, key="k"))
    await log.revoke("one")
    await log.revoke("two")
    await log.close()
    webhooks = await open_webhooks(database)
    await webhooks.add("https://example.org/told", ["*"], ["message"], "whsec_c2VjcmV0")
    await webhooks.close()


async def contents(database: str) -> dict[str, Any]:
    """All that clients could see."""
    log = await open_log(database)
    try:
        found: dict[str, Any] = {"epoch": log.epoch}
        for room in "abc":
            found[room] = await everything(log, room)
            found["past of " + room] = await past(log, room)
        found["marks"] = await log.marks([(room, user) for room in "abc" for user in USERS])
        for user in ("alice", "bob"):
            state = await log.state(user)
            events = await log.read(f"~{user}", 0, max_events=10_000, max_bytes=MIB)
            found[f"~{user}"] = state.head, state.floor, state.rooms, [plain(event.data) for event in events]
        found["revocations"] = [(one.id, one.jti) for one in await log.revocations(0)]
        return found
    finally:
        await log.close()


async def past(log: Log, room: str) -> list[Any]:
    messages, more = await log.history(room, before=None, limit=500, max_bytes=MIB)
    assert not more
    for event in messages:
        event["reactions"] = {emoji: sorted(users) for emoji, users in event.get("reactions", {}).items()}
    return [plain(event) for event in messages]


def rows_of(database: str) -> list[list[tuple[Any, ...]]]:
    """All that the tables hold, hidden ids included, but for how the databases spell what is true."""
    order = {table.name: ", ".join(f'"{column}"' for column in table.key) for table in TABLES}
    columns = {table.name: ", ".join(f'"{column}"' for column in table.columns) for table in TABLES}
    return [sql(database, f"SELECT {columns[name]} FROM {name} ORDER BY {order[name]}") for name in order]


def copied(source: str, target: str, *, code: str = PAGES + RUN, more: str = "") -> subprocess.CompletedProcess[str]:
    process = child(code, source, target, more)
    output, errors = process.communicate(timeout=TIMEOUT)
    return subprocess.CompletedProcess([], process.returncode, output, errors)


def done(source: str, target: str) -> None:
    result = copied(source, target)
    assert (result.returncode, result.stderr) == (0, ""), result
    assert result.stdout.splitlines()[-1] == "done: the copy is complete, and equal to the log"


def refused(source: str, target: str, code: int = 2) -> str:
    result = copied(source, target)
    assert result.returncode == code, result
    (line,) = result.stderr.splitlines()
    assert line.startswith("tornado-chat: error: ")
    return line


def test_a_copy_is_exact_and_goes_on_as_the_log_would(source: str, database: str) -> None:
    done(source, database)
    assert rows_of(database) == rows_of(source)
    assert asyncio.run(contents(database)) == asyncio.run(contents(source))

    async def go_on() -> None:
        log = await open_log(database)
        heads = await log.heads("abc")
        (duplicate, new, other) = await append(
            log, message("again", room="c", key="mine", user="alice"), message(room="c"), message(room="new")
        )
        assert (duplicate.seq, duplicate.duplicate) == (2, True)
        assert (new.seq, other.seq) == (heads["c"] + 1, 1)
        last = (await log.revocations(0))[-1].id
        await log.revoke("later")
        assert [one.jti for one in await log.revocations(last)] == ["later"]
        await log.close()
        webhooks = await open_webhooks(database)
        assert await webhooks.add("https://example.org/more", ["*"], ["message"], "whsec_c2VjcmV0") == 2
        await webhooks.close()

    asyncio.run(go_on())


def test_there_and_back(source: str, postgres_url: str, tmp_path: Path) -> None:
    back = f"sqlite:///{tmp_path}/back.db"
    done(source, postgres_url)
    done(postgres_url, back)
    assert rows_of(back) == rows_of(source)
    assert asyncio.run(contents(back)) == asyncio.run(contents(source))


def test_an_empty_log_and_an_empty_database_of_ours(database: str, tmp_path: Path) -> None:
    """The other way that a new database looks: a server was started on it once."""
    source = f"sqlite:///{tmp_path}/empty.db"

    async def make(database: str) -> str:
        log = await open_log(database)
        await log.close()
        return log.epoch

    epoch = asyncio.run(make(source))
    asyncio.run(make(database))
    done(source, database)
    assert asyncio.run(make(database)) == epoch


def test_killed_again_and_again_it_arrives(source: str, database: str) -> None:
    before = rows_of(source)
    pages = sum(-(-len(rows) // ROWS) for rows in before)
    kills = [1, 2, *[pages // 4] * 3]
    kills.append(pages - sum(kills) + 2)  # in the check
    for page in kills:
        result = copied(source, database, code=KILLED, more=str(page))
        assert (result.returncode, result.stderr) == (-signal.SIGKILL, ""), page
        with pytest.raises(ConfigError, match=r"is being copied there.*run the same tornado-chat copy-log again"):
            asyncio.run(open_log(database))
    done(source, database)
    assert rows_of(database) == rows_of(source) == before
    assert asyncio.run(contents(database)) == asyncio.run(contents(source))


def test_a_log_that_changed_meanwhile_is_found_out(source: str, database: str) -> None:
    assert copied(source, database, code=KILLED, more="20").returncode == -signal.SIGKILL

    async def write() -> None:
        log = await open_log(source)
        await append(log, message("too late", room="a"))
        await log.close()

    asyncio.run(write())
    result = copied(source, database)
    assert result.returncode == 1
    assert "events of room 'a': FROM has " in result.stderr
    assert "room 'b'" not in result.stderr
    assert "FROM and TO differ" in result.stderr.splitlines()[-1]
    with pytest.raises(ConfigError, match="is being copied there"):
        asyncio.run(open_log(database))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (
            "UPDATE events SET text = NULL WHERE room = (SELECT id FROM rooms WHERE name = 'c') AND seq = 1",
            "events of room 'c'",
        ),
        ("DELETE FROM amendments WHERE room = 1", "amendments of room"),
        ("DELETE FROM reactions WHERE room = 1", "reactions of room"),
        ("UPDATE marks SET seq = seq - 1 WHERE room = 1", "marks of room"),
        ("DELETE FROM revocations WHERE id = 1", "revocations of 1"),
        ("UPDATE webhook_rooms SET seq = 1 WHERE room = 1", "webhook_rooms of 1"),
        ("UPDATE rooms SET name = 'other' WHERE id = 1", "rooms of room"),
    ],
)
def test_a_finished_copy_is_only_compared(source: str, database: str, change: str, what: str) -> None:
    done(source, database)
    done(source, database)
    sql(database, change)
    before = rows_of(database)
    result = copied(source, database)
    assert result.returncode == 1
    assert f"tornado-chat: error: {what}" in result.stderr
    assert rows_of(database) == before


def test_another_log_is_left_alone(source: str, database: str) -> None:
    async def other() -> None:
        log = await open_log(database)
        await append(log, message("mine"))
        await log.close()

    asyncio.run(other())
    before = rows_of(database)
    assert "another log is there; give an empty database as TO" in refused(source, database)
    assert rows_of(database) == before


def test_an_interrupted_copy_of_another_log_is_left_alone(source: str, database: str) -> None:
    assert copied(source, database, code=KILLED, more="4").returncode == -signal.SIGKILL
    sql(source, "UPDATE meta SET value = 'another' WHERE name = 'epoch'")
    before = rows_of(database)
    assert "another log is there" in refused(source, database)
    assert rows_of(database) == before


def test_what_cannot_be_copied(source: str, database: str, tmp_path: Path) -> None:
    none = f"sqlite:///{tmp_path}/none.db"
    assert f"there is no log at {none}" in refused(none, database)
    assert "the same database" in refused(source, source)
    assert "mysql is not supported" in refused("mysql://me:hunter2@db/x", database)
    age(source)
    assert "run: tornado-chat migrate --database sqlite:///" in refused(source, database)
    assert not (tmp_path / "chat.db").exists(), "nothing is made before it is known what to copy"
    assert not (tmp_path / "none.db").exists()


def test_a_target_that_cannot_be_written(source: str) -> None:
    line = refused(source, "postgresql://me:hunter2@127.0.0.1:1/chat", code=1)
    assert "postgresql://me@127.0.0.1:1/chat: cannot be used" in line
    assert "hunter2" not in line


def test_bars_on_a_terminal(source: str, tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "tornado_chat", "copy-log", source, f"sqlite:///{tmp_path}/chat.db"],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
        )
        os.close(theirs)
        output = b""
        try:
            while chunk := os.read(ours, 65536):
                output += chunk
        except OSError:  # Linux's way to say that the other end is closed
            pass
        assert process.wait(TIMEOUT) == 0
    finally:
        os.close(ours)
    for table in TABLES:
        assert table.name.encode() in output
    assert "\u2501".encode() in output


async def test_a_page_is_bounded_by_rows_and_by_bytes() -> None:
    async def rows(count: int, size: int) -> AsyncIterator[Row]:
        for number in range(count):
            yield (1, number, "x" * size)

    marks = next(table for table in TABLES if table.name == "marks")
    small = [len(page) async for page in _pages(marks, rows(PAGE_ROWS * 2 + 1, 1))]
    assert small == [PAGE_ROWS, PAGE_ROWS, 1]
    great = [len(page) async for page in _pages(marks, rows(10, PAGE_BYTES // 2))]
    assert great == [3, 3, 3, 1]
