"""Flask: ask an agent, say something in a room, and answer to what webhooks tell.

    pip install flask standardwebhooks
    export TORNADO_CHAT_URL=http://127.0.0.1:8080 TORNADO_CHAT_TOKEN=$(tornado-chat token --user shop)
    tornado-chat webhook add http://127.0.0.1:9000/webhooks        # prints the secret
    export WEBHOOK_SECRET=whsec_...
    flask --app examples/flask_app run --port 9000
    curl 127.0.0.1:9000/ask -d question='How are you?'

The agent is `demo`, or what AGENT says: `tornado-chat agent demo` answers in another shell.
"""

from __future__ import annotations

import os

from flask import Flask, Response, request
from standardwebhooks import Webhook, WebhookVerificationError

from tornado_chat.client.sync import Chat

AGENT = os.environ.get("AGENT", "demo")

app = Flask(__name__)
chat = Chat(os.environ["TORNADO_CHAT_URL"], token=os.environ["TORNADO_CHAT_TOKEN"])
webhooks = Webhook(os.environ["WEBHOOK_SECRET"])


@app.post("/ask")
def ask() -> Response:
    """The answer, as it comes."""
    return Response(iter(chat.ask(AGENT, request.form["question"])), mimetype="text/plain")


@app.post("/orders/<int:number>/paid")
def paid(number: int) -> tuple[str, int]:
    """The id says it once, however often this is asked for."""
    chat.send("orders", f"Order {number} is paid", id=f"order-{number}")
    return "", 204


@app.post("/webhooks")
def webhook() -> tuple[str, int]:
    """They come at least once: what is done for one has to be the same the second time, as by this id."""
    try:
        event = webhooks.verify(request.get_data(), dict(request.headers))
    except WebhookVerificationError as error:
        return str(error), 400
    said = event["data"]
    if event["type"] == "message.created" and said.get("text") == "!status":
        chat.send(said["room"], "All is well.", reply_to=said["seq"], id=f"status-{said['seq']}")
    return "", 204
