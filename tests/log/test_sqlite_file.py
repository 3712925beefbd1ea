"""Which files are taken for an SQLite log, and which are refused in one clear line."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.support.entries import append, message
from tests.support.sqlite_files import bytes_of, child, make, put, refusal, sizes
from tornado_chat.log import schema
from tornado_chat.log.sqlite import open_sqlite
from tornado_chat.log.sqlite_writer import Writer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chat.db"


async def test_the_directory_is_made_and_the_file_is_private(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "chat.db"
    log = await open_sqlite(str(path))
    await append(log, message())
    for file in path.parent.iterdir():
        assert file.stat().st_mode & 0o777 == 0o600, file
    await log.close()
    assert sizes(path).keys() == {"chat.db"}


async def test_a_relative_path_stays_what_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    log = await open_sqlite("chat.db")
    monkeypatch.chdir("/")
    await append(log, message())
    await log.close()
    assert sizes(path).keys() == {"chat.db"}


async def test_settings_that_durability_and_erasure_need(path: Path) -> None:
    log = await open_sqlite(str(path))
    await log.close()
    with closing(Writer(str(path), 1, 1)) as writer:
        values = {name: writer.db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")}
        assert values == {"journal_mode": "wal", "synchronous": 2}
        assert writer.db.execute("PRAGMA secure_delete").fetchone() == (1,)


@pytest.mark.parametrize("content", [b"x", b"hello, this is no database\n" * 1000, b"SQLite format 3\0", b"\0" * 8192])
async def test_a_file_that_is_not_sqlite(path: Path, content: bytes) -> None:
    put(path, content)
    assert "not an SQLite file" in await refusal(path)
    assert bytes_of(path) == content


async def test_another_programs_file(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE notes (text)")
    before = bytes_of(path)
    assert "another program's" in await refusal(path)
    assert bytes_of(path) == before
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE notes")
        db.execute("PRAGMA application_id = 7")
    assert "another program's" in await refusal(path)


async def test_a_truncated_file(path: Path) -> None:
    await make(path, events=500)
    whole = bytes_of(path)
    for length in (len(whole) // 2, len(whole) - 4096, 4096, 5000, 1000, 50):
        put(path, whole[:length])
        line = await refusal(path)
        assert "truncated" in line or "damaged" in line, length
    put(path, b"")
    put(path.with_name("chat.db-wal"), b"what a crash left")
    assert "chat.db-wal" in await refusal(path)


async def test_places_where_no_file_can_be(tmp_path: Path) -> None:
    assert "Is a directory" in await refusal(tmp_path)
    (tmp_path / "file").write_text("")
    assert "cannot be opened" in await refusal(tmp_path / "file" / "chat.db")
    assert "cannot be opened" in await refusal(tmp_path / ("x" * 300) / "chat.db")


OPEN = """
import asyncio, sys
from tornado_chat.errors import ConfigError
from tornado_chat.log.sqlite import open_sqlite
async def main():
    try:
        log = await open_sqlite(sys.argv[1])
    except ConfigError as error:
        sys.exit(str(error))
    print(log.epoch)
    await log.close()
asyncio.run(main())
"""


@contextmanager
def not_root() -> Iterator[None]:
    """Root may write everywhere; this is somebody else."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory that other users can get to, which pytest's own are not."""
    directory = Path(tempfile.mkdtemp(prefix="tornado-chat-test-"))
    yield directory
    directory.chmod(0o700)
    shutil.rmtree(directory)


async def test_a_directory_that_may_not_be_written(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = schema.revisions("sqlite")  # somebody else may not be allowed to read the package
    monkeypatch.setattr(schema, "revisions", lambda _: steps)
    path = shared / "chat.db"
    os.chmod(shared, 0o555)
    with not_root():
        assert "cannot be opened for writing: Permission denied" in await refusal(path)
    os.chmod(shared, 0o700)
    await make(path)
    os.chmod(path, 0o666)
    os.chmod(shared, 0o555)
    with not_root():
        line = await refusal(path)
    assert "cannot be opened for writing" in line
    assert "beside it" in line


async def test_processes_that_make_the_file_together_agree(path: Path) -> None:
    processes = [child(OPEN, str(path)) for _ in range(6)]
    answers = [process.communicate(timeout=60) for process in processes]
    assert [error for _, error in answers] == [""] * 6
    assert len({epoch for epoch, _ in answers}) == 1


async def test_a_new_epoch_is_kept(path: Path) -> None:
    old = await make(path)
    log = await open_sqlite(str(path))
    new = await log.new_epoch()
    assert new == log.epoch != old
    await log.close()
    log = await open_sqlite(str(path))
    assert log.epoch == new
    await log.close()
