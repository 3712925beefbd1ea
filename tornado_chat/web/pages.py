"""The chat page and its files."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

from tornado.web import StaticFileHandler

from tornado_chat.web.refusals import Handler

STATIC = Path(__file__).parent / "static"

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)


class PageHandler(Handler, StaticFileHandler):
    """A file of `static/`, asked for again with its ETag each time: a new version is never mixed with an old one."""

    @classmethod
    def get_content(
        cls, abspath: str, start: int | None = None, end: int | None = None
    ) -> Generator[bytes, None, None]:
        """All at once: no file stays open while a client takes its time."""
        yield Path(abspath).read_bytes()[start:end]

    def set_extra_headers(self, path: str) -> None:
        self.set_header("Cache-Control", "no-cache")
        self.set_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "no-referrer")


class RequestsHandler(PageHandler):
    """The page of all requests under `/v1`."""

    def parse_url_path(self, url_path: str) -> str:
        return "api.html"
