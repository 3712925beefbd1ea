"""The routes, and what Tornado may log of them."""

from __future__ import annotations

import logging
from collections.abc import Callable

from tornado.web import Application, RequestHandler

from tornado_chat.live.connection import Transport
from tornado_chat.live.session import Context
from tornado_chat.web.ops import HealthHandler, MetricsHandler, ReadyHandler
from tornado_chat.web.pages import STATIC, PageHandler
from tornado_chat.web.socket import SocketHandler

logger = logging.getLogger(__name__)


def make_app(
    context: Context, transport: Transport, secret: bytes, failing: Callable[[], list[str]]
) -> Application:
    """All that a server answers; `failing` names the checks of `/readyz` that fail."""
    socket = {"context": context, "transport": transport, "secret": secret}
    return Application(
        [
            (r"/ws", SocketHandler, socket),
            (r"/ws/([^/]+)", SocketHandler, socket),
            (r"/()", PageHandler, {"path": str(STATIC), "default_filename": "index.html"}),
            (r"/static/(.+)", PageHandler, {"path": str(STATIC)}),
            (r"/healthz", HealthHandler),
            (r"/readyz", ReadyHandler, {"failing": failing}),
            (r"/metrics", MetricsHandler, {"metrics": context.hub.metrics}),
        ],
        log_function=_log_request,
        server_header="tornado_chat",
    )


def _log_request(handler: RequestHandler) -> None:
    """Never the query: it may hold a token."""
    status = handler.get_status()
    level = logging.ERROR if status >= 500 and status != 503 else logging.DEBUG
    logger.log(level, "request method=%s path=%s status=%d", handler.request.method, handler.request.path, status)
