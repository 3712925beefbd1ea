"""The SDKs are extras: the package does without them, and says what to install where one is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support import ROOT


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_no_sdk_is_imported_with_the_package() -> None:
    program = """
import sys, tornado_chat.agents.providers
print(sorted({"openai", "anthropic", "httpx2", "pydantic"} & sys.modules.keys()))
"""
    assert run(program) == "[]"


@pytest.mark.parametrize(("name", "extra"), [("OpenAI", "openai"), ("Anthropic", "anthropic")])
def test_what_to_install_is_said(name: str, extra: str) -> None:
    # None in sys.modules is what Python has for a module that cannot be imported.
    program = f"""
import sys
sys.modules["{extra}"] = None
from tornado_chat.agents.providers import {name}
try:
    {name}("some-model", api_key="k")
except ImportError as error:
    print(error)
"""
    assert run(program) == f"the package {extra} is not installed: pip install 'tornado_chat[{extra}]'"
