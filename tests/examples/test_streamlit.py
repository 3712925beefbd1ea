"""The examples for Streamlit: by its own AppTest, and in a real Chromium, run again in the middle of a reply."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from streamlit.testing.v1 import AppTest

from tests.support import ROOT
from tests.support.agents import AgentProcess
from tests.support.servers import Server
from tornado_chat.client.sync import Chat
from tornado_chat.verify.ports import free_port

pytest_plugins = ["tests.support.chromium_fixtures"]

EXAMPLES = ROOT / "examples"
SECONDS = 60.0

COUNTER = """
import asyncio
from tornado_chat.agents import Agent

agent = Agent("demo", rooms=["lobby"])

@agent.on_mention
async def count(ctx, message):
    for number in range(400 if "again" in message.prompt else 40):
        yield f"w{number} "
        await asyncio.sleep(0.1)
"""
SAID = " ".join(f"w{number}" for number in range(40))


@pytest.fixture
def counter(tmp_path: Path, server: Server) -> Iterator[Server]:
    """A server, and an agent that says so many words in 4 s, or so many more that there is time to stop it."""
    with AgentProcess(tmp_path, server, module=COUNTER) as agent:
        wait_until(lambda: "agent answers" in agent.said())
        yield server


def wait_until(holds: Callable[[], object]) -> None:
    """Without a loop: the browser's is here already."""
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def begins(text: str) -> bool:
    """Whether it is a beginning of what the agent says, perhaps with the mark that there is more to come."""
    return SAID.startswith(text.strip().removesuffix("▌").strip())


# AppTest


@pytest.fixture
def app_tests(monkeypatch: pytest.MonkeyPatch, counter: Server) -> Server:
    monkeypatch.setenv("TORNADO_CHAT_URL", counter.url)
    return counter


def run_until(app: AppTest, holds: Callable[[], object]) -> None:
    """Run it again and again, as its fragment is."""
    wait_until(lambda: not app.run().exception and holds())


def messages(app: AppTest) -> list[str]:
    return [message.markdown[0].value.strip() for message in app.chat_message if message.markdown]


def test_a_room_that_is_looked_at_again_and_again(app_tests: Server) -> None:
    import streamlit

    app = AppTest.from_file(str(EXAMPLES / "streamlit_chat.py"), default_timeout=SECONDS).run()
    try:
        assert [info.value for info in app.info] == ["What is your name? Write it on the left."]
        app.sidebar.text_input(key="name").set_value("ann").run()
        app.chat_input[0].set_value("@demo count").run()
        with Chat(app_tests.url, name="ben") as ben:
            ben.send("lobby", "meanwhile")
            run_until(app, lambda: {"@demo count", "meanwhile"} <= set(messages(app)))
            seen: list[str] = []
            while not seen or seen[-1] != SAID:
                (reply,) = (text for text in messages(app) if text not in ("@demo count", "meanwhile"))
                assert begins(reply)
                seen.append(reply)
                app.sidebar.slider[0].set_value(50 + len(seen) % 2).run()
            lengths = [len(text.removesuffix("▌").strip()) for text in seen]
            assert lengths == sorted(lengths)
            assert len(set(lengths)) > 5
            app.chat_input[0].set_value("@demo again").run()
            run_until(app, lambda: [button for button in app.button if button.label == "Stop"])
            next(button for button in app.button if button.label == "Stop").click().run()
            run_until(app, lambda: not app.button)
            found = ben.history("lobby")["messages"]
            assert [text for text in messages(app) if text] == [one["text"].strip() for one in found if one["text"]]
            assert "w399" not in found[-1]["text"]
    finally:
        streamlit.cache_resource.clear()


def test_an_agent_is_asked_and_its_answer_written_as_it_comes(app_tests: Server) -> None:
    app = AppTest.from_file(str(EXAMPLES / "streamlit_ask.py"), default_timeout=SECONDS).run()
    try:
        app.chat_input[0].set_value("count").run()
        for _ in range(2):
            assert not app.exception
            assert messages(app)[0] == "count"
            assert app.chat_message[1].markdown[-1].value.strip() == SAID
            app.sidebar.toggle[0].set_value(True).run()
        assert re.search(r"is the room demo-[0-9a-f]{26}\.", app.sidebar.markdown[0].value)
    finally:
        app.session_state.chat.close()


# Chromium


@contextmanager
def streamlit(example: str, server: Server, output: Path) -> Iterator[str]:
    """The example as people run it, and its address."""
    port = free_port()
    flags = ["--server.headless", "true", "--browser.gatherUsageStats", "false", "--server.fileWatcherType", "none"]
    command = [sys.executable, "-m", "streamlit", "run", str(EXAMPLES / example), "--server.port", str(port)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TORNADO_CHAT_URL": server.url}
    with output.open("wb") as out:
        process = subprocess.Popen(
            [*command, *flags, "--server.address", "127.0.0.1"], env=environment, stdout=out, stderr=out
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: _is_up(address) or process.poll() is not None)
        assert process.poll() is None, output.read_text()
        yield address
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        finally:
            process.kill()
    assert "Traceback" not in output.read_text()


def _is_up(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/_stcore/health", timeout=5):
            return True
    except OSError:
        return False


def connections(server: Server) -> int:
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=5) as answer:
        found = re.search(r"^tornado_chat_connections (\d+)", answer.read().decode(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def rows(page: Page) -> Locator:
    return page.get_by_test_id("stChatMessage")


def say(page: Page, text: str) -> None:
    page.get_by_test_id("stChatInputTextArea").fill(text)
    page.get_by_test_id("stChatInputTextArea").press("Enter")


def test_people_in_a_room_and_clicks_in_the_middle_of_a_reply(
    browser: Browser, counter: Server, tmp_path: Path
) -> None:
    with streamlit("streamlit_chat.py", counter, tmp_path / "streamlit.out") as address:
        pages = []
        for name in ("ann", "ben"):
            page = browser.new_context().new_page()
            page.goto(address)
            page.get_by_label("Your name").fill(name)
            page.get_by_label("Your name").press("Enter")
            expect(page.get_by_test_id("stChatInputTextArea")).to_be_visible(timeout=SECONDS * 1000)
            pages.append(page)
        ann, ben = pages
        say(ann, "@demo count")
        for page in pages:
            expect(rows(page)).to_have_count(2)  # by itself
        slider = ann.get_by_role("slider")
        seen: list[str] = []
        while SAID not in (text := rows(ann).last.inner_text()):
            assert begins(text.partition("demo")[2].partition("Stop")[0])
            seen.append(text)
            slider.press("ArrowRight")
            ann.wait_for_timeout(200)
            assert len(seen) < 300
        assert len(set(seen)) > 1, "it grows meanwhile"
        say(ben, "seen")
        for page in pages:
            expect(rows(page)).to_have_count(3)
            expect(rows(page).nth(1)).to_contain_text(SAID)
            expect(rows(page).last).to_contain_text("seen")
        assert connections(counter) == 3
        for page in pages:
            page.context.close()
        wait_until(lambda: connections(counter) == 1)  # the agent's: a client ends with its tab


def test_an_answer_that_is_written_survives_what_is_clicked(browser: Browser, counter: Server, tmp_path: Path) -> None:
    with streamlit("streamlit_ask.py", counter, tmp_path / "streamlit.out") as address:
        page = browser.new_context().new_page()
        page.goto(address)
        expect(page.get_by_test_id("stChatInputTextArea")).to_be_visible(timeout=SECONDS * 1000)
        say(page, "count")
        answer = rows(page).nth(1)
        for word in ("w3 ", "w8 ", "w13 "):
            expect(answer).to_contain_text(word)
            page.get_by_text("Tell the room").click()
        expect(answer).to_contain_text(SAID)
        expect(rows(page)).to_have_count(2)
        say(page, "again")
        expect(rows(page)).to_have_count(4)
        expect(rows(page).nth(3)).to_contain_text("w5")
        rows(page).nth(3).get_by_role("button", name="Stop").click()
        expect(page.get_by_role("button", name="Stop")).to_have_count(0)
        expect(rows(page).nth(1)).to_contain_text(SAID)
        expect(rows(page).nth(3)).not_to_contain_text("w399")
        room = re.search(r"demo-[0-9a-f]{26}", page.get_by_test_id("stSidebar").inner_text())
        assert room is not None
        with Chat(counter.url, name="who looks") as chat:
            found = chat.history(room[0])["messages"]
        assert [message["text"] for message in found[:3]] == ["count", SAID + " ", "again"]
        assert len(found) == 4
        page.context.close()
