"""What an agent asked its model: once for each reply, and no longer than that is wanted. No I/O, no clock."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

from tornado_chat.verify.answers import Answers, Reply
from tornado_chat.verify.findings import Finding

LEFT_SECONDS = 2.0
"""From the wish that a reply ends until the model's server sees the connection end."""
LEFT_LATE_SECONDS = 40.0
"""The same while harm is done, which may keep the wish from the process that asks the model, or freeze that."""


class Call:
    """One request: who (a process) asks it for which attempt. Times by time.monotonic()."""

    __slots__ = ("began_at", "ended_at", "number", "pid", "room", "seq", "times", "whole")

    def __init__(self, pid: int, room: str, seq: int, number: int, began_at: float) -> None:
        self.pid = pid
        self.room = room
        self.seq = seq
        self.number = number
        self.began_at = began_at
        self.times: list[float] = []  # when each piece was written
        self.ended_at = math.inf  # all was said, or the client has gone
        self.whole = False


class Judgement:
    """What was found, each with its room, and what the report tells."""

    def __init__(self) -> None:
        self.findings: list[tuple[str, Finding]] = []
        self.left_after: list[float] = []
        """Seconds from the wish that a reply ends until the model was left alone."""
        self.said_after = 0
        """Pieces that it said in that time."""
        self.again = 0
        """Calls that repeat another one of the same attempt: a reply that was taken over."""


def judge(calls: list[Call], answers: Answers, harmed: Callable[[float, float], bool], now: float) -> Judgement:
    """`harmed` tells whether the agent, its server or what is between them was, from one time to another."""
    judged = Judgement()
    by_reply: dict[tuple[str, int, int], list[Call]] = {}
    for call in calls:
        by_reply.setdefault((call.room, call.seq, call.number), []).append(call)
    for place, made in by_reply.items():
        judged.again += len(made) - 1
        reply = answers.replies.get(place)
        if reply is None:
            judged.findings.append(
                (
                    place[0],
                    Finding("asked", f"the model was asked for re:{place[1]}:{place[2]}, which is no reply", place[1]),
                )
            )
            continue
        judged.findings += ((place[0], finding) for finding in _twice(reply, made, harmed))
        for call in made:
            judged.findings += ((place[0], finding) for finding in _left(reply, call, judged, harmed, now))
    return judged


def _twice(reply: Reply, calls: list[Call], harmed: Callable[[float, float], bool]) -> Iterator[Finding]:
    for one, other in pairwise(calls):
        if other.began_at < one.ended_at and not harmed(one.began_at, other.began_at):
            text = f"the model was asked for {reply.id} by {other.pid} while it answered {one.pid}"
            yield Finding("asked", text, reply.question.seq)


def _left(
    reply: Reply, call: Call, judged: Judgement, harmed: Callable[[float, float], bool], now: float
) -> Iterator[Finding]:
    unwanted = reply.unwanted_at
    if reply.end is None or reply.end.reason != "stopped" or unwanted == math.inf or call.ended_at < unwanted:
        return
    since = max(unwanted, call.began_at)
    seconds = min(call.ended_at, now) - since
    judged.left_after.append(seconds)
    judged.said_after += sum(at > since for at in call.times)
    if seconds > (LEFT_LATE_SECONDS if harmed(since, since + LEFT_SECONDS) else LEFT_SECONDS):
        said = sum(at > since + LEFT_SECONDS for at in call.times)
        text = f"the model went on for {seconds:.1f} s when {reply.id} was not wanted any more: {said} pieces too many"
        yield Finding("billed", text, reply.question.seq)
