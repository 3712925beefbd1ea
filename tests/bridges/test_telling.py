"""What somebody is told of an answer comes to its text, whoever gives that, and wherever they were cut off."""

from __future__ import annotations

from typing import Any
from zlib import crc32

from hypothesis import given
from hypothesis import strategies as st

from tornado_chat.bridges.answer import STEPS, Answer
from tornado_chat.bridges.telling import Begun, End, Mark, Restart, Telling, Text, crc_of

TEXT = st.text(alphabet="ab\N{SNOWMAN}", max_size=8)
RUNS = st.lists(st.tuples(st.sampled_from(["attempt", "gen"]), TEXT, st.integers(1, 3)), min_size=1, max_size=5)


def told_of(runs: list[tuple[str, str, int]], cut: int) -> tuple[list[Any], str]:
    """What a room tells: each run says some of its text, `step` code points at a time; the last is cut to its end."""
    told: list[Any] = []
    seq, number, gen, open_one = 10, 0, 1, 0
    text = ""
    for kind, text, step in runs:
        if kind == "attempt" or not open_one:
            if open_one:
                seq += 1
                told.append(finished(seq, open_one, "", "interrupted"))
            seq, number, gen = seq + 1, number + 1, 1
            id = "re:1" if number == 1 else f"re:1:{number}"
            message = {"type": "message", "seq": seq, "ts": 1, "user": "bot", "id": id, "text": "", "streaming": True}
            told.append(message)
            open_one = seq
        else:
            gen += 1
        told += [
            {"type": "appended", "chunks": [[open_one, gen, at, text[at : at + step]]]}
            for at in range(0, len(text), step)
        ]
    text = text[: len(text) - min(cut, len(text))]
    told.append(finished(seq + 1, open_one, text, "done") | {"length": len(text), "crc": crc32(text.encode())})
    return told, text


def finished(seq: int, target: int, text: str, reason: str) -> Any:
    told = {"type": "finished", "seq": seq, "target": target, "ts": 1, "user": "bot", "reason": reason}
    return told | {"length": len(text), "crc": crc32(text.encode())}


class Client:
    """One who is told."""

    def __init__(self) -> None:
        self.text = ""
        self.ended = False

    def take(self, telling: Telling) -> None:
        for one in telling.news():
            match one:
                case Text(text, offset):
                    assert offset == len(self.text)
                    self.text += text
                case Restart():
                    self.text = ""
                case End(reason):
                    assert reason == "done"
                    self.ended = True
                case _:
                    assert isinstance(one, Begun)


@given(RUNS, st.integers(0, 2), st.lists(st.booleans(), max_size=60), st.integers(0, 60))
def test_it_comes_to_the_text(runs: list[tuple[str, str, int]], cut: int, looks: list[bool], cut_at: int) -> None:
    """`looks`: after which of what the room tells the client is told; `cut_at`: where it is cut off."""
    told, text = told_of(runs, cut)
    client, answer = Client(), Answer("bot", "ann", 1)
    telling = Telling(answer)
    for number, one in enumerate(told):
        if number == cut_at:  # and comes back, to a process that reads all of it again
            answer = Answer("bot", "ann", 1)
            for before in told[:number]:
                answer.feed(before)
            mark = Mark(len(client.text), crc_of(client.text)) if client.text else None
            telling = Telling(answer, mark)
        answer.feed(one)
        if looks[number % len(looks)] if looks else True:
            client.take(telling)
    if not client.ended:
        client.take(telling)
    assert not answer.lacking
    assert client.ended
    assert client.text == text


def test_an_end_whose_text_is_another_is_fetched_before_it_is_told() -> None:
    client, answer = Client(), Answer("bot", "ann", 1)
    telling = Telling(answer)
    told, _ = told_of([("attempt", "ab", 1)], 0)
    del told[2]  # a chunk that did not come
    for one in told:
        answer.feed(one)
        client.take(telling)
    assert answer.lacking
    assert (client.text, client.ended) == ("a", False)
    answer.fetched({"seq": answer.seq, "gen": 1, "text": "ab"})
    client.take(telling)
    assert (client.text, client.ended) == ("ab", True)


def test_of_the_steps_that_a_message_keeps_those_count_that_are_some() -> None:
    answer = Answer("bot", "ann", 1)
    for told in told_of([("attempt", "abc", 3)], 0)[0]:
        if told["type"] == "finished":
            step = {"id": "a", "name": "search", "state": "done", "output": "found"}
            others = [{"id": []}, {"id": "b"}, step | {"state": 5}, step | {"output": {}}, "x", None]
            told["meta"] = {"steps": [*others, step]}
        answer.feed(told)
    assert answer.steps == {"a": {"id": "a", "name": "search", "state": "done", "output": "found"}}
    assert (answer.text, answer.reason) == ("abc", "done")


def test_no_more_steps_of_a_reply_are_kept_than_a_page_keeps() -> None:
    answer = Answer("bot", "ann", 1)
    answer.feed(told_of([("attempt", "abc", 3)], 0)[0][0])
    assert answer.grows
    for state in ("running", "done"):
        for number in range(STEPS + 5):
            step = {"id": f"{number}", "name": "search", "state": state}
            answer.feed({"type": "step", "user": "bot", "seq": answer.seq, "step": step})
    assert list(answer.steps) == [f"{number}" for number in range(STEPS)]
    assert {step["state"] for step in answer.steps.values()} == {"done"}
