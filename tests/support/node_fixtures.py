"""Fixtures of apps in Node; a test module names this one in `pytest_plugins`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support.node_app import CLIENT, DRIVER, node, npm


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of its own with the packed client in its node_modules."""
    node()
    if shutil.which("npm") is None:
        assert os.environ.get("CI") != "true", "in CI there is an npm"
        pytest.skip("there is no npm here to pack the client with")
    folder = tmp_path_factory.mktemp("project")
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    tarball = npm(folder, "pack", "--silent", str(CLIENT)).strip()
    npm(folder, "install", "--silent", "--offline", "--no-audit", "--no-fund", "--ignore-scripts", tarball)
    shutil.copy(DRIVER, folder)
    return folder
