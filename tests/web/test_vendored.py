"""What others wrote is here as they published it: by the checksums beside it, and by npm where there is one."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.vendored import FOLDERS, manifest, sha256, unpacked

ENTRIES = [(folder, name) for folder in FOLDERS for name in manifest(folder)]
ids = [f"{folder.parent.name}-{name}" for folder, name in ENTRIES]


@pytest.mark.parametrize("folder", FOLDERS, ids=["page", "tests"])
def test_nothing_is_there_that_is_not_listed(folder: Path) -> None:
    """But the types of what the page uses, which are our own."""
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    listed = {f"{name}/{path}" for name, entry in manifest(folder).items() for path in entry["files"]}
    assert {path for path in there if not path.endswith((".d.ts", ".d.mts"))} == listed | {"vendor.json"}


@pytest.mark.parametrize(("folder", "name"), ENTRIES, ids=ids)
def test_each_file_is_as_listed_and_its_licence_is_with_it(folder: Path, name: str) -> None:
    entry = manifest(folder)[name]
    assert entry["licence"]
    assert any(path.upper().startswith("LICENSE") for path in entry["files"])
    for path, checksum in entry["files"].items():
        assert sha256((folder / name / path).read_bytes()) == checksum, path


@pytest.mark.parametrize(("folder", "name"), ENTRIES, ids=ids)
def test_npm_has_the_same(folder: Path, name: str, tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        assert os.environ.get("CI") != "true", "in CI there is an npm"
        pytest.skip("there is no npm here to compare with")
    entry = manifest(folder)[name]
    try:
        files = unpacked(copy.deepcopy(entry), tmp_path)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        assert os.environ.get("CI") != "true", "in CI the registry is to be reached"
        pytest.skip("npm does not reach its registry from here")
    assert {path: sha256(content) for path, content in files.items()} == entry["files"]
