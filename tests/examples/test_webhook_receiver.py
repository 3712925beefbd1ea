"""examples/webhook_receiver.py beside a real server."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from tests.support import ROOT
from tests.support.chat import eventually
from tests.support.servers import UNLIMITED, Server
from tornado_chat.client import Client
from tornado_chat.verify.ports import free_port

COMMAND = sys.executable, "-m", "tornado_chat", "webhook", "add", "--events", "message,finished"


async def test_it_prints_each_message_once(tmp_path: Path) -> None:
    port = free_port()
    with Server(tmp_path, *UNLIMITED, expected=["webhook refused webhook=1 .*refused"]) as server:
        added = await asyncio.to_thread(
            subprocess.run,
            [*COMMAND, f"http://127.0.0.1:{port}/chat", "--database", f"sqlite:///{server.database}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        found = re.search(r"whsec_\S+", added.stdout)
        assert found is not None
        environment = {**os.environ, "WEBHOOK_SECRET": found[0], "WEBHOOK_DATABASE": str(tmp_path / "told.db")}
        with (tmp_path / "said").open("wb") as said:
            process = await asyncio.create_subprocess_exec(
                sys.executable, ROOT / "examples" / "webhook_receiver.py", str(port), stdout=said, env=environment
            )
            try:
                async with Client(server.url, name="ann") as chat:
                    await chat.send("lobby", "hello")
                    async with chat.stream("lobby") as reply:
                        await reply.write("it ")
                        await reply.write("grew")
                    await eventually(lambda: (tmp_path / "said").read_text().count("\n") == 2, 30)
            finally:
                process.terminate()
                await process.wait()
    assert (tmp_path / "said").read_text() == "lobby 1: hello\nlobby 3: it grew\n"
    with closing(sqlite3.connect(tmp_path / "told.db")) as db:
        assert db.execute("SELECT room, text FROM told ORDER BY text").fetchall() == [
            ("lobby", "hello"),
            ("lobby", "it grew"),
        ]
