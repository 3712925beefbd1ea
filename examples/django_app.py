"""Django, in one file: ask an agent, say something in a room, and answer to what webhooks tell.

    pip install django standardwebhooks
    export TORNADO_CHAT_URL=http://127.0.0.1:8080 TORNADO_CHAT_TOKEN=$(tornado-chat token --user shop)
    tornado-chat webhook add http://127.0.0.1:9000/webhooks        # prints the secret
    export WEBHOOK_SECRET=whsec_...
    python examples/django_app.py runserver --noreload 9000
    curl 127.0.0.1:9000/ask -d question='How are you?'

The agent is `demo`, or what AGENT says: `tornado-chat agent demo` answers in another shell.
"""

from __future__ import annotations

import os
import secrets
import sys

from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST
from standardwebhooks import Webhook, WebhookVerificationError

from tornado_chat.client.sync import Chat

AGENT = os.environ.get("AGENT", "demo")

settings.configure(ROOT_URLCONF=__name__, SECRET_KEY=secrets.token_hex(), ALLOWED_HOSTS=["127.0.0.1", "localhost"])
chat = Chat(os.environ["TORNADO_CHAT_URL"], token=os.environ["TORNADO_CHAT_TOKEN"])
webhooks = Webhook(os.environ["WEBHOOK_SECRET"])


@csrf_exempt
@require_POST
def ask(request: HttpRequest) -> StreamingHttpResponse:
    """The answer, as it comes."""
    return StreamingHttpResponse(iter(chat.ask(AGENT, request.POST["question"])), content_type="text/plain")


@csrf_exempt
@require_POST
def paid(request: HttpRequest, number: int) -> HttpResponse:
    """The id says it once, however often this is asked for."""
    chat.send("orders", f"Order {number} is paid", id=f"order-{number}")
    return HttpResponse(status=204)


@csrf_exempt
@require_POST
def webhook(request: HttpRequest) -> HttpResponse:
    """They come at least once: what is done for one has to be the same the second time, as by this id."""
    try:
        event = webhooks.verify(request.body, dict(request.headers))
    except WebhookVerificationError as error:
        return HttpResponse(str(error), status=400)
    said = event["data"]
    if event["type"] == "message.created" and said.get("text") == "!status":
        chat.send(said["room"], "All is well.", reply_to=said["seq"], id=f"status-{said['seq']}")
    return HttpResponse(status=204)


urlpatterns = [path("ask", ask), path("orders/<int:number>/paid", paid), path("webhooks", webhook)]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
