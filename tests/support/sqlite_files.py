"""SQLite logs on the disk, and processes beside this one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT
from tests.support.entries import append, message
from tornado_chat.errors import ConfigError
from tornado_chat.log.sqlite import open_sqlite


async def make(path: Path, events: int = 3) -> str:
    """A log with some events in `path`; returns its epoch."""
    log = await open_sqlite(str(path))
    await append(log, *(message(f"text {number}") for number in range(events)))
    await log.close()
    return log.epoch


async def refusal(path: Path) -> str:
    """The one line with which `path` is refused."""
    with pytest.raises(ConfigError) as caught:
        await open_sqlite(str(path), timeout=0.5)
    line = str(caught.value)
    assert "\n" not in line
    assert str(path) in line
    return line


def bytes_of(path: Path) -> bytes:
    return path.read_bytes()


def put(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def sizes(path: Path) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in path.parent.iterdir()}


def child(code: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, **options)
