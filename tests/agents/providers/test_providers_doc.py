"""docs/providers.md against the code: its program, its limits, its kinds of errors."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from dataclasses import asdict
from typing import get_args

from tests.support import ROOT
from tests.support.scripted_provider import KEY, OPENAI, ScriptedProvider, stream
from tornado_chat.agents.providers import Kind, Limits

DOC = (ROOT / "docs" / "providers.md").read_text(encoding="utf-8")


async def test_its_program_runs() -> None:
    found = re.search(r"^```python\n(.*?)^```", DOC, re.MULTILINE | re.DOTALL)
    assert found
    call = OPENAI.call(0, "c1", "weather", ['{"city": "Bern"}'])
    async with ScriptedProvider(stream(call, OPENAI.ending("tools")), OPENAI.reply("No ", "umbrella.")) as fake:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", found[1]),
            cwd=ROOT,
            env={**os.environ, "OPENAI_BASE_URL": fake.url + "/v1", "OPENAI_API_KEY": KEY},
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await asyncio.wait_for(process.communicate(), 60)
        assert out.decode() == '[weather {"city": "Bern"}]\n[Bern: sun for 1 days]\nNo umbrella.'
        assert process.returncode == 0


def test_its_limits_are_the_codes() -> None:
    limits = DOC.partition("## Limits")[2]
    told = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", limits, re.MULTILINE))
    assert {name: float(value) for name, value in told.items()} == asdict(Limits())


def test_its_kinds_of_errors_are_the_codes() -> None:
    row = next(line for line in DOC.splitlines() if line.startswith("| `kind` |"))
    assert set(re.findall(r"`(\w+)`", row)) - {"kind"} == set(get_args(Kind))
