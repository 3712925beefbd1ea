"""Programs beside this process: started again ever more slowly, ended with their owner, even against their will."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.support.chat import eventually
from tornado_chat.processes import children
from tornado_chat.processes.children import Child, Children
from tornado_chat.verify.processes import is_alive


def program(text: str) -> list[str]:
    return [sys.executable, "-c", text]


@pytest.mark.logs("child ended name=short how=code 3 again_in=")
async def test_one_that_ends_again_and_again_is_started_ever_more_slowly(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(children, "SHORTEST_PAUSE", 0.1)
    monkeypatch.setattr(children, "LONGEST_PAUSE", 0.2)
    owner = Children([Child("short", program("raise SystemExit(3)"), os.environ)])
    owner.start()

    def pauses() -> list[str]:
        return [text.partition("again_in=")[2] for text in caplog.messages if "child ended" in text]

    await eventually(lambda: len(pauses()) >= 4)
    await owner.stop()
    assert pauses()[:4] == ["0.0", "0.1", "0.2", "0.2"]


@pytest.mark.logs("child ended name=broken how=code 3 again_in=")
async def test_what_is_mended_in_the_pause_after_a_failure_is_started_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(children, "SHORTEST_PAUSE", 300.0)
    monkeypatch.setattr(children, "LONGEST_PAUSE", 300.0)
    mended = tmp_path / "mended"
    text = f"import os, time; os.path.exists({str(mended)!r}) or os._exit(3); open({str(mended)!r}, 'w').write('on'); "
    owner = Children([Child("broken", program(text + "time.sleep(60)"), os.environ)])
    owner.start()
    await eventually(lambda: any("again_in=300" in line for line in caplog.messages))
    mended.touch()
    owner.restart()
    await eventually(lambda: mended.read_text() == "on")
    await owner.stop()


@pytest.mark.logs("child ended name=none how=not started: ")
async def test_one_that_cannot_be_started_is_told() -> None:
    owner = Children([Child("none", ["/no/such/program"], os.environ)])
    owner.start()
    await asyncio.sleep(0.1)
    await owner.stop()


async def test_one_that_does_not_listen_is_killed_and_a_restart_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "STOP_SECONDS", 0.3)
    said = tmp_path / "pids"
    text = f"import os, signal, time; open({str(said)!r}, 'a').write(f'{{os.getpid()}} '); "
    obeys = Child("obeys", program(text + "time.sleep(60)"), os.environ)
    owner = Children(
        [obeys, Child("deaf", program("import signal; signal.signal(15, 1); " + text + "time.sleep(60)"), os.environ)]
    )

    def pids() -> list[int]:
        return [int(pid) for pid in said.read_text().split()] if said.exists() else []

    owner.start()
    await eventually(lambda: len(pids()) == 2)
    obeys.restart()
    await eventually(lambda: len(pids()) == 3)
    assert sum(is_alive(pid) for pid in pids()) == 2
    await owner.stop()
    assert not any(is_alive(pid) for pid in pids())
