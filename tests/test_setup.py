"""The package can be built with a C compiler and without one, and says which it is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tornado_chat.config import PURE

ROOT = Path(__file__).parent.parent


def build(folder: Path, **environment: str) -> tuple[list[str], str]:
    """Build a copy of the package in `folder`: the names of its extension's files, and what it said."""
    source, built = folder / "source", folder / "built"
    shutil.copytree(
        ROOT / "tornado_chat", source / "tornado_chat", ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    done = subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build", "--build-lib", str(built)],
        cwd=source,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert (built / "tornado_chat/live/room.py").exists()
    return [path.name for path in (built / "tornado_chat/live").glob("_fanout*.so")], done.stderr


def test_with_a_compiler_the_extension_is_there(tmp_path: Path) -> None:
    files, said = build(tmp_path)
    assert len(files) == 1
    assert "without its C extension" not in said


@pytest.mark.parametrize("says", ["", "Python.h: No such file or directory"])
def test_without_a_compiler_or_headers_it_is_built_all_the_same(tmp_path: Path, says: str) -> None:
    compiler = tmp_path / "cc"
    if says:
        compiler.write_text(f"#!/bin/sh\necho '{says}' >&2\nexit 1\n")
        compiler.chmod(0o755)
    files, said = build(tmp_path, CC=str(compiler))
    assert files == []
    assert "tornado_chat: without its C extension, so the server is slower: " in said


def test_without_it_the_server_says_so() -> None:
    command = [
        sys.executable,
        "-c",
        "from tornado_chat.live.fanout import EXTENSION, send_all; print(EXTENSION, send_all)",
    ]
    said = subprocess.run(command, env=os.environ | {PURE: "1"}, cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout.startswith("not used: TORNADO_CHAT_PURE is set <function send_all_in_python")
