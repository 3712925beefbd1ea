"""docs/webhooks.md says what the code does: the types, the example of a request, the numbers."""

from __future__ import annotations

import json
import re

from tests.support import ROOT
from tornado_chat import webhook_command
from tornado_chat.live.hub import POLL_SECONDS
from tornado_chat.log import webhooks as log_webhooks
from tornado_chat.webhooks import deliverer, endpoint, posting
from tornado_chat.webhooks.telling import TYPES, body_of

DOC = (ROOT / "docs" / "webhooks.md").read_text(encoding="utf-8")


def test_the_types_are_the_codes() -> None:
    assert dict(re.findall(r"^\| `(message\.\w+)` \| `(\w+)` \|", DOC, re.MULTILINE)) == {
        told: type for type, told in TYPES.items()
    }


def test_the_request_is_as_one_is() -> None:
    found = re.search(r"^```json\n(.*?)\n```", DOC, re.MULTILINE | re.DOTALL)
    assert found is not None
    assert body_of(json.loads(found[1])["data"]).decode() == found[1]


def test_the_numbers_are_the_codes() -> None:
    for text in (
        f"{endpoint.AT_ONCE} at a time for each endpoint",
        f"within {posting.ANSWER_SECONDS:g} s",
        f"no answer in {posting.ANSWER_SECONDS:g} s",
        f"up to {endpoint.LONGEST_PAUSE / 60:g}\n  minutes",
        f"at most {endpoint.LONGEST_PROBE:g} s apart",
        f"After {endpoint.GIVE_UP_SECONDS / 3600:g} hours",
        f"for {deliverer.LEASE_SECONDS:g} s at a\ntime",
        f"it looks every {POLL_SECONDS:g} s",
        f"There may be {log_webhooks.WEBHOOKS} endpoints, each\nwith {webhook_command.PATTERNS} patterns",
    ):
        assert text in DOC
    assert deliverer.TURN_SECONDS == 0.5, "up to half a second later"
    assert webhook_command.FORMER_SECONDS == 86400, "for a day"
