"""The chat page and its files."""

from __future__ import annotations

import gzip
import mimetypes
import re
from pathlib import Path
from typing import NamedTuple

from tornado.web import HTTPError

from tornado_chat.web.refusals import Handler
from tornado_chat.wire.event_stream import names_gzip

STATIC = Path(__file__).parent / "static"

INDEX, AGENT_INDEX = "index.html", "agent.html"
"""The page; and the same where its address is a folder deeper, as /agent/NAME is. Below which path a proxy has put it
is not known here, so what it names is relative to it."""

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
SCRIPT_POLICY = "default-src 'none'; script-src 'self'"
"""Of all but a page, where it binds a script that runs as a worker. It comes with each of many small files."""

CLIENT = "client/"
"""What a page of any origin may import: code that is the same for all. Whether it may connect the server says then."""

_TYPES = mimetypes.MimeTypes(filenames=())  # whatever this machine believes
_TYPES.add_type("text/javascript", ".js")
_TYPES.add_type("text/javascript", ".mjs")
_TYPES.add_type("application/manifest+json", ".webmanifest")

_COMMENT = re.compile(rb"^[ \t]*(?://.*|/\*(?:[^*]|\*(?!/))*\*/[ \t]*)$", re.MULTILINE)
"""One that has its lines to itself. No string or template of the page begins a line so."""


class File(NamedTuple):
    """What is sent of a file: its type, its bytes, the same bytes by gzip (None where that is no shorter)."""

    type: str
    plain: bytes
    packed: bytes | None


class Files:
    """The files of a folder, each as it was when it was first asked for: versions are not mixed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._paths: dict[str, Path] = {}
        self._read: dict[str, File] = {}

    def find(self, name: str) -> File | None:
        """The file of that name, with "/" between folders."""
        file = self._read.get(name)
        if file is None:
            if not self._paths:
                every = [path for path in self.folder.rglob("*") if path.is_file()]
                self._paths = {path.relative_to(self.folder).as_posix(): path for path in every}
            path = self._paths.get(INDEX if name == AGENT_INDEX else name)
            if path is not None:
                plain = path.read_bytes()
                if name == AGENT_INDEX:
                    plain = plain.replace(b'="static/', b'="../static/')
                file = self._read[name] = _file(path, plain, foreign=name.startswith("vendor/"))
        return file


def _file(path: Path, plain: bytes, *, foreign: bool) -> File:
    """Comments are a quarter of a first visit. Those of others hold their licences, and stay."""
    kind, _ = _TYPES.guess_type(path.name)
    if path.suffix in (".js", ".css") and not foreign:
        plain = without_comments(plain)
    packed = gzip.compress(plain, mtime=0)
    return File(kind or "application/octet-stream", plain, packed if len(packed) < len(plain) else None)


def without_comments(source: bytes) -> bytes:
    """JavaScript or CSS without the comments that stand on lines of their own. Each line keeps its number."""
    return _COMMENT.sub(lambda match: b"\n" * match[0].count(b"\n"), source)


class PageHandler(Handler):
    """A file of `static/`, asked for again with its ETag each time: a new version is never mixed with an old one."""

    def initialize(self, files: Files, name: str = "") -> None:
        """`name`: of the file, where the address has none."""
        self.files = files
        self.name = name

    def get(self, path: str) -> None:
        name = path or self.name
        file = self.files.find(name)
        if file is None:
            raise HTTPError(404)
        is_page = file.type == "text/html"
        self.set_header("Content-Type", file.type + ("; charset=UTF-8" if is_page else ""))
        self.set_header("Cache-Control", "no-cache")
        self.set_header("Content-Security-Policy", CONTENT_SECURITY_POLICY if is_page else SCRIPT_POLICY)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("Vary", "Accept-Encoding")
        if name.startswith(CLIENT):
            self.set_header("Access-Control-Allow-Origin", "*")
        if file.packed is not None and names_gzip(self.request.headers.get("Accept-Encoding", "")):
            self.set_header("Content-Encoding", "gzip")
            self.write(file.packed)
        else:
            self.write(file.plain)

    head = get
