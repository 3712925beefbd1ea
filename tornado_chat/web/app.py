"""What answers a request: the handshake, or one of Tornado's handlers."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from tornado.http1connection import HTTP1Connection
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.web import Application, RequestHandler

from tornado_chat.errors import ChatError
from tornado_chat.metrics import Metrics
from tornado_chat.web import commands, fragments, poll, sessions, socket, stream
from tornado_chat.web.api import PREFIX, Api
from tornado_chat.web.endpoint import Endpoint
from tornado_chat.web.exchange import Exchange, is_text
from tornado_chat.web.gate import PATH, Gate
from tornado_chat.web.http_connection import HttpConnection
from tornado_chat.web.ops import HealthHandler, MetricsHandler, ReadyHandler
from tornado_chat.web.pages import AGENT_INDEX, INDEX, STATIC, Files, PageHandler
from tornado_chat.web.refusals import STATUS, NothingHandler, refuse
from tornado_chat.wire.request import Request

HEALTH, METRICS = "/healthz", "/metrics"
SIMPLE = "/api"
"""Of the addresses for who asks an agent and wants to know nothing else."""
DOCS = PREFIX + "/docs"

logger = logging.getLogger(__name__)


class Front(HTTPServerConnectionDelegate):
    """Where all requests come in."""

    def __init__(
        self,
        gate: Gate,
        metrics: Metrics,
        failing: Callable[[], list[str]],
        degraded: Callable[[], list[str]],
        bridges: Sequence[Endpoint] = (),
    ) -> None:
        """`failing` names the checks of `/readyz` that fail, `degraded` what is away without harm."""
        self.gate = gate
        described = *stream.endpoints(), *poll.endpoints(), *commands.ENDPOINTS, *sessions.ENDPOINTS
        self.api = Api(gate, (*described, *fragments.ENDPOINTS), bridges)
        files = Files(STATIC)
        self.app = Application(
            [
                (r"/()", PageHandler, {"files": files, "name": INDEX}),
                (r"/agent/[^/]+()", PageHandler, {"files": files, "name": AGENT_INDEX}),
                (DOCS + "()", PageHandler, {"files": files, "name": "api.html"}),
                (r"/static/([\w./-]+)", PageHandler, {"files": files}),
                (HEALTH, HealthHandler),
                (r"/readyz", ReadyHandler, {"failing": failing, "degraded": degraded}),
                (METRICS, MetricsHandler, {"metrics": metrics}),
            ],
            default_handler_class=NothingHandler,
            log_function=_log_request,
        )

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        return _Fork(self, server_conn, request_conn)

    def let_in(self, connection: HttpConnection, request: Request) -> Callable[[], None] | None:
        """What makes the connection a line, if that is what the plain `request` asks for; Refused if it may not."""
        if request.method != "GET" or not _is_socket(request.target):
            return None
        begin = socket.let_in(self.gate, connection.remote_ip, request)
        return partial(begin, connection.sock, request.rest)

    def read(self, connection: HttpConnection, request: Request) -> Exchange | None:
        """What reads and answers a plain `request`; None: Tornado does."""
        if not _is_api(request.target.partition("?")[0]) or is_text(request.headers):
            return None
        return self.api.read(connection)


class _Fork(HTTPMessageDelegate):
    """Becomes a Handshake, an Exchange or the Application's delegate as soon as the path is known."""

    def __init__(self, front: Front, server_conn: object, request_conn: HTTPConnection) -> None:
        self.front = front
        self.server_conn = server_conn
        self.request_conn = request_conn
        self.delegate = HTTPMessageDelegate()

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        assert isinstance(start_line, RequestStartLine)
        assert isinstance(self.request_conn, HTTP1Connection)
        connection = self.request_conn.context
        assert isinstance(connection, HttpConnection)
        connection.expect_answer()
        path = start_line.path.partition("?")[0]
        if _is_socket(path):
            self.delegate = socket.Handshake(self.front.gate, self.request_conn)
        elif _is_api(path):
            self.delegate = self.front.api.begin(self.request_conn)
        else:
            try:
                if path != HEALTH:
                    self.front.gate.check_host(headers, connection.remote_ip, proxied=path != METRICS)
            except ChatError as error:
                head = start_line.method == "HEAD"
                refuse(self.request_conn, headers, STATUS[error.code], error.code, error.message, head=head)
                return None
            self.delegate = self.front.app.start_request(self.server_conn, self.request_conn)
        return self.delegate.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        return self.delegate.data_received(chunk)

    def finish(self) -> None:
        self.delegate.finish()

    def on_connection_close(self) -> None:
        self.delegate.on_connection_close()


def _is_socket(target: str) -> bool:
    path = target.partition("?")[0]
    return path == PATH or path.startswith(PATH + "/")


def _is_api(path: str) -> bool:
    return path.startswith((PREFIX + "/", SIMPLE + "/")) and path != DOCS


def _log_request(handler: RequestHandler) -> None:
    """Never the query: it may hold a token."""
    status = handler.get_status()
    level = logging.ERROR if status >= 500 and status != 503 else logging.DEBUG
    logger.log(level, "request method=%s path=%s status=%d", handler.request.method, handler.request.path, status)
