"""What npm installs for tests."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path

import pytest

PATIENCE = 100.0
"""Seconds that npm has for all packages of a folder."""


def packages(folder: Path) -> Path:
    """`node_modules` of `folder`, with what its package.json names; several processes of a test run may ask at once."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("there is no npm here; on Debian: apt-get install nodejs npm")
    named = folder / "package.json"
    installed = folder / "node_modules" / "installed"
    with named.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not installed.exists() or installed.stat().st_mtime < named.stat().st_mtime:
            flags = ("--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
            subprocess.run(
                [npm, "install", *flags], cwd=folder, check=True, timeout=PATIENCE, stdout=subprocess.DEVNULL
            )
            installed.touch()
    return installed.parent
