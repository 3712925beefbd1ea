"""What holds for the addresses of all bridges."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.support.agents import SECONDS
from tests.support.chat import running
from tests.support.parrot import by


@pytest.mark.parametrize(
    ("address", "body"),
    [
        ("/api/agent/chat", b'{"message": [%b0]}'),
        ("/v1/agents/bot/chat", b'{"id": "x", "messages": [%b0]}'),
        ("/v1/chat/completions", b'{"model": "bot", "messages": [%b0]}'),
        ("/v1/responses", b'{"model": "bot", "input": [%b0]}'),
    ],
)
async def test_a_body_that_was_read_in_vain_is_paid_for(tmp_path: Path, address: str, body: bytes) -> None:
    async with (
        running(tmp_path, send_rate=1, send_burst=1, address_users=1) as here,
        httpx.AsyncClient(base_url=here.address, timeout=SECONDS) as client,
    ):
        found = []
        for _ in range(2):
            asked = by(here, "ann") | {"Content-Type": "application/json"}
            answer = await client.post(address, content=body % (b"0," * 100_000), headers=asked)
            found.append(answer.status_code)
        assert found[0] in (400, 413)
        assert found[1] == 429
