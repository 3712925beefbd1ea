"""What the type check of the page believes, against what is so: the protocol's tables, and the page's elements."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser

from tests.support import ROOT
from tests.support.chromium import Person
from tests.support.servers import Server

pytest_plugins = ["tests.support.chromium_fixtures"]

WIRE = (ROOT / "tornado_chat" / "web" / "static" / "client" / "wire.d.ts").read_text(encoding="utf-8")
PAGE = (ROOT / "tests" / "web" / "javascript" / "page.d.ts").read_text(encoding="utf-8")
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")

TYPES = re.findall(r'interface (\w+) \{ type: "(\w+)";? ?(.*?) ?\}', WIRE)
COMMANDS = re.split(r"[\s|]+", re.findall(r"type Command = (.*);", WIRE)[0])


def fields(pattern: str, words: str) -> dict[str, bool]:
    """The fields that `pattern` finds, and whether each may be absent."""
    return {name: bool(optional) for name, optional in re.findall(pattern, words)}


def documented(type: str, command: bool) -> dict[str, bool]:
    """The fields of a type, from its row in one of the tables of commands or of what the server sends."""
    commands, rest = PROTOCOL.split("\n## What the server sends\n")
    rows = re.findall(rf"^\| `{type}` \|(.*?)\|", commands if command else rest, re.MULTILINE)
    found = fields(r"`(\w+)`(\??)", rows[0])
    return found | {"id": True} if command else found


@pytest.mark.parametrize(("name", "type", "declared"), TYPES, ids=[name for name, _, _ in TYPES])
def test_a_type_has_the_fields_of_the_protocol(name: str, type: str, declared: str) -> None:
    there = documented(type, name in COMMANDS)
    for field, optional in fields(r"(\w+)(\??): [^;]+", declared).items():
        assert there[field] == optional, field


def test_every_element_is_in_the_page_and_of_its_kind(browser: Browser, server: Server) -> None:
    elements = re.findall(r"^  (\w+): (\w+);$", PAGE, re.MULTILINE)
    assert len(elements) > 40
    anna = Person(browser, server.url, "")
    wrong = anna.page.evaluate(
        """async (elements) => {
          const { byId } = await import("./static/dom.js");
          return elements.filter(([name, kind]) => !(byId[name] instanceof window[kind]));
        }""",
        elements,
    )
    assert wrong == []
    anna.leave()
