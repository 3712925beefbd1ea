"""Two servers on one SQLite file are told; the workers of one are not two, nor is a command beside a server."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.chat import eventually
from tests.support.servers import Server
from tornado_chat.config import Settings
from tornado_chat.log.serving import serving

ANOTHER = "another server serves the same log"


def server(tmp_path: Path, name: str, *flags: str) -> Server:
    """One of those that share the file `shared.db`."""
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    return Server(folder, "--database", f"sqlite:///{tmp_path}/shared.db", *flags, expected=[ANOTHER])


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def warnings(server: Server) -> int:
    return len(re.findall(ANOTHER, server.said()))


@pytest.mark.parametrize("first", ["1", "2"])
@pytest.mark.parametrize("second", ["1", "2"])
async def test_a_second_server_says_so_at_its_start(tmp_path: Path, first: str, second: str) -> None:
    with server(tmp_path, "one", "--workers", first) as one:
        with server(tmp_path, "two", "--workers", second) as two:
            await eventually(lambda: warnings(two) == 1)
        assert warnings(one) == 0
        assert str(tmp_path / "shared.db") in two.said()
    # Two workers that close at one moment may take each other for one that goes on: then SQLite's own two files stay.
    assert names(tmp_path) - {"shared.db-wal", "shared.db-shm"} == {"one", "two", "shared.db"}


def test_what_was_killed_is_no_other_server(tmp_path: Path) -> None:
    with server(tmp_path, "one") as one:
        one.restart()
        assert warnings(one) == 0
        for command in (["revoke", "x"], ["migrate"]):
            line = [sys.executable, "-m", "tornado_chat", *command, "--database", f"sqlite:///{tmp_path}/shared.db"]
            done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
            assert (done.returncode, done.stderr) == (0, "")
    with server(tmp_path, "one") as one:
        assert warnings(one) == 0


@pytest.mark.logs(ANOTHER)
def test_servers_that_share_a_redis_are_told_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    database = f"sqlite:///{tmp_path}/shared.db"
    (tmp_path / "shared.db").touch()
    with serving(Settings(database=database)):
        with serving(Settings(database=database, redis=("redis://127.0.0.1:1",))):
            assert caplog.messages == []
        with serving(Settings(database=database)):
            assert len(caplog.messages) == 1
    with serving(Settings(database=database)), serving(Settings(database="postgresql://127.0.0.1:1/chat")):
        assert len(caplog.messages) == 1
