"""FastAPI: ask an agent, say something in a room, and answer to what webhooks tell.

    pip install fastapi python-multipart uvicorn standardwebhooks
    export TORNADO_CHAT_URL=http://127.0.0.1:8080 TORNADO_CHAT_TOKEN=$(tornado-chat token --user shop)
    tornado-chat webhook add http://127.0.0.1:9000/webhooks        # prints the secret
    export WEBHOOK_SECRET=whsec_...
    uvicorn --app-dir examples fastapi_app:app --port 9000
    curl 127.0.0.1:9000/ask -d question='How are you?'

The agent is `demo`, or what AGENT says: `tornado-chat agent demo` answers in another shell.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, Form, HTTPException, Request
from fastapi.responses import StreamingResponse
from standardwebhooks import Webhook, WebhookVerificationError

from tornado_chat.client import Client

AGENT = os.environ.get("AGENT", "demo")

chat = Client(os.environ["TORNADO_CHAT_URL"], token=os.environ["TORNADO_CHAT_TOKEN"])
webhooks = Webhook(os.environ["WEBHOOK_SECRET"])


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with chat:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/ask")
async def ask(question: Annotated[str, Form()]) -> StreamingResponse:
    """The answer, as it comes."""
    return StreamingResponse(aiter(await chat.ask(AGENT, question)), media_type="text/plain")


@app.post("/orders/{number}/paid", status_code=204)
async def paid(number: int) -> None:
    """The id says it once, however often this is asked for."""
    await chat.send("orders", f"Order {number} is paid", id=f"order-{number}")


@app.post("/webhooks", status_code=204)
async def webhook(request: Request) -> None:
    """They come at least once: what is done for one has to be the same the second time, as by this id."""
    try:
        event = webhooks.verify(await request.body(), dict(request.headers))
    except WebhookVerificationError as error:
        raise HTTPException(400, str(error)) from error
    said = event["data"]
    if event["type"] == "message.created" and said.get("text") == "!status":
        await chat.send(said["room"], "All is well.", reply_to=said["seq"], id=f"status-{said['seq']}")
