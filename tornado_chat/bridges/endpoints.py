"""The addresses of all bridges."""

from __future__ import annotations

from tornado_chat.bridges import ai_sdk, openai_chat, openai_responses, simple
from tornado_chat.bridges.asking import Askings
from tornado_chat.web.endpoint import Endpoint

_BRIDGES = simple, ai_sdk, openai_chat, openai_responses


def bridges(askings: Askings) -> list[Endpoint]:
    return [endpoint for bridge in _BRIDGES for endpoint in bridge.endpoints(askings)]
