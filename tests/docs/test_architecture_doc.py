"""docs/architecture.md and docs/bounds.md against the code: the files, names and settings in them, and the numbers."""

from __future__ import annotations

import re
from importlib import import_module

import pytest

from tests.support import ROOT
from tornado_chat.config import ALL

DOC = "\n".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("architecture.md", "bounds.md"))
PACKAGE = ROOT / "tornado_chat"

CONSTANTS = [
    (path, name, line)
    for line in DOC.splitlines()
    for path, names in re.findall(r"`([\w/]+)\.py: ([A-Z_, ]+)`", line)
    for name in names.split(", ")
]


PAGE_CONSTANTS = [
    (path, name, line)
    for line in DOC.splitlines()
    for path, names in re.findall(r"`(web/static/[\w/]+\.js): ([A-Z_, ]+)`", line)
    for name in names.split(", ")
]


def as_told(value: float) -> set[str]:
    """The ways in which a page may write a number."""
    return {f"{value:,.0f}", f"{value / 1024:g} KiB", f"{value / 1024**2:g} MiB", f"{value:g} s"}


def test_the_files_that_they_name_are_there() -> None:
    named = set(re.findall(r"(?<![\w./*-])([a-z_]+/[\w/]*\.py|[a-z_]+\.py)\b", DOC))
    assert len(named) > 50
    for name in named:
        assert (PACKAGE / name).exists() or (ROOT / name).exists(), name


@pytest.mark.parametrize(("path", "name", "line"), CONSTANTS, ids=[f"{path}:{name}" for path, name, _ in CONSTANTS])
def test_the_numbers_of_the_bounds_are_the_codes(path: str, name: str, line: str) -> None:
    value = getattr(import_module("tornado_chat." + path.replace("/", ".")), name)
    if isinstance(value, int | float):
        assert as_told(value) & set(re.findall(r"\d[\d,.]*\d(?: (?:KiB|MiB|s)\b)?|\d(?: (?:KiB|MiB|s)\b)?", line))


@pytest.mark.parametrize(
    ("path", "name", "line"), PAGE_CONSTANTS, ids=[f"{path}:{name}" for path, name, _ in PAGE_CONSTANTS]
)
def test_the_numbers_of_the_bounds_are_the_pages(path: str, name: str, line: str) -> None:
    found = re.search(rf"^const {name} = ([\d_]+);", (PACKAGE / path).read_text(encoding="utf-8"), re.MULTILINE)
    assert found
    assert f"{int(found[1]):,}" in re.findall(r"\d[\d,]*\d|\d", line)


def test_the_files_of_the_page_that_they_name_are_there() -> None:
    named = set(re.findall(r"web/static/[\w/.]+\.js(?:on)?\b", DOC))
    assert len(named) >= 8
    for name in named:
        assert (PACKAGE / name).exists(), name


def test_the_settings_that_they_name_exist() -> None:
    for flag in re.findall(r"`--([a-z-]+)`", DOC):
        assert flag.replace("-", "_") in ALL, flag


def test_the_methods_that_they_name_exist() -> None:
    files = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent.name != "verify"]  # it has names of its own
    source = "".join(path.read_text(encoding="utf-8") for path in files)
    for owner, method in set(re.findall(r"\b([A-Z][a-z][A-Za-z]*)\.([a-z_]+)\b", DOC)):
        body = re.search(rf"^class {owner}\b.*?(?=^\S|\Z)", source, re.MULTILINE | re.DOTALL)
        assert body, owner
        assert re.search(rf"\bdef {method}\b", body[0]), (owner, method)
