"""The addresses of all bridges."""

from __future__ import annotations

from tornado_chat.bridges import ai_sdk, openai_chat, simple
from tornado_chat.bridges.asking import Askings
from tornado_chat.web.endpoint import Endpoint


def bridges(askings: Askings) -> list[Endpoint]:
    return [*simple.endpoints(askings), *ai_sdk.endpoints(askings), *openai_chat.endpoints(askings)]
