"""The README says what the code does: the settings table is held to `Settings`."""

from __future__ import annotations

import re

from tests.support import ROOT
from tornado_chat.config import settings_table


def test_the_settings_table_is_the_codes() -> None:
    readme = (ROOT / "README.md").read_text()
    found = re.search(r"<!-- settings -->\n(.*?)\n?<!-- /settings -->", readme, re.DOTALL)
    assert found is not None
    assert found[1].strip() == settings_table().strip(), "put config.settings_table() between the two comments"


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "bench" / "README.md"):
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
