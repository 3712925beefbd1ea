"""A room's messages as those of a provider: what was said up to a question, as much of it as fits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from tornado_chat.wire.attempts import attempt_of
from tornado_chat.wire.events import Data

TOKEN_BYTES = 3
"""Of UTF-8, that are taken for a token: fewer than most models need, so that the estimate is rather too high."""

MESSAGE_TOKENS = 4
"""That a message costs besides its text."""

PAGE = 100
PAGES = 10
"""So many messages are asked for at once, so often at most."""

LATER = 200
"""Events behind the question in which replies to the ones before it are looked for."""

Page = Callable[[int | None], Awaitable[Data]]
"""Asks for the messages before a seq: the answer to `history`."""


def tokens_of(text: str) -> int:
    """About how many tokens a message with this text is."""
    return MESSAGE_TOKENS - -len(text.encode("utf-8", "replace")) // TOKEN_BYTES


async def provider_messages(page: Page, user: str, question: int, tokens: int, head: int) -> list[Data]:
    """`{"role", "content", "name"?}` for each, oldest first, the last one being the message `question`.

    The newest that have at most `tokens` together, and the question in any case. Those of `user` are the assistant's,
    each reply behind what it answers; of several attempts to answer one message the newest that has ended counts.
    """
    found: dict[int, Data] = {}
    before = min(head, question + LATER) + 1
    spent = 0
    for _ in range(PAGES):
        answer = await page(before)
        for message in answer["messages"]:
            found[message["seq"]] = message
            if message["seq"] <= question:
                spent += tokens_of(message.get("text", ""))
        if not answer["more"] or not answer["messages"] or spent > tokens:
            break
        before = answer["messages"][0]["seq"]
    return _fitting(in_order(found.values(), user, question), tokens)


def in_order(messages: Iterable[Data], user: str, question: int) -> list[Data]:
    """Those that were said before the question or answer what was, in the order of the conversation, and it itself."""
    said: list[tuple[int, int, Data]] = []  # where it belongs: behind which message, and its own seq
    replies: dict[int, tuple[int, Data]] = {}
    for message in messages:
        seq: int = message["seq"]
        if not message.get("text") or message.get("streaming"):
            continue
        if message["user"] != user:
            if seq <= question:
                said.append((seq, 0, message))
            continue
        attempt = attempt_of(message.get("id", ""))
        if attempt is None:
            place = message.get("reply_to", seq)
            if place < question:
                said.append((place, seq, message))
        elif attempt[0] < question and attempt[1] > replies.get(attempt[0], (0, message))[0]:
            replies[attempt[0]] = attempt[1], message
    said += [(answered, message["seq"], message) for answered, (_, message) in replies.items()]
    asker = next((message["user"] for _, _, message in said if message["seq"] == question), None)
    return [
        _provider_message(message, user, asker if message["seq"] != question else None)
        for _, _, message in sorted(said, key=lambda one: one[:2])
    ]


def _provider_message(message: Data, user: str, asker: str | None) -> Data:
    """What the `asker` has put there in another role (`meta.role`) counts as that for them, and for nobody else."""
    if message["user"] == user:
        return {"role": "assistant", "content": message["text"]}
    meta = message.get("meta")
    role = meta.get("role") if isinstance(meta, dict) and message["user"] == asker else None
    if role in ("system", "assistant"):
        return {"role": role, "content": message["text"]}
    return {"role": "user", "content": message["text"], "name": message["name"]}


def _fitting(messages: list[Data], tokens: int) -> list[Data]:
    """The last ones that fit; one at least."""
    for place in range(len(messages) - 1, -1, -1):
        tokens -= tokens_of(messages[place]["content"])
        if tokens < 0 and place < len(messages) - 1:
            return messages[place + 1 :]
    return messages
