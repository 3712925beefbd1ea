"""The command `tornado-chat`: serve, agent, webhook, token, revoke, tail, send, verify, migrate, copy-log ...

Exit codes: 0; 1 for a failure; 2 for wrong usage or a wrong setting; 130 after Ctrl-C. Errors are one line on stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import codecs
import importlib.metadata
import os
import secrets
import sys
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from tornado_chat import auth, config, log_commands, logs
from tornado_chat.errors import ChatError, ConfigError, LogUnavailable
from tornado_chat.verify import options as verify_options
from tornado_chat.wire.commands import LAST_MAX

if TYPE_CHECKING:
    from tornado_chat.processes.control import Place

DEFAULT_URL = "http://127.0.0.1:8080"
TRANSPORTS = ("auto", "websocket", "stream", "poll")
MAX_LINE_BYTES = 1 << 20


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    try:
        try:
            args = _parser().parse_args(argv)
            code: int = args.run(args)
        finally:
            sys.stdout.flush()
        return code
    except ConfigError as error:
        return _failed(error, 2)
    except BrokenPipeError:
        # Whoever read us has seen enough. Python flushes stdout once more at exit: give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ChatError, LogUnavailable, OSError) as error:
        return _failed(error, 1)
    except KeyboardInterrupt:
        return 130


def _failed(error: object, code: int) -> int:
    print(f"tornado-chat: error: {error}", file=sys.stderr)
    return code


class _Parser(argparse.ArgumentParser):
    """Wrong usage is one line, like every other error; a flag is never guessed from its beginning."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(
            f"{' '.join(message.removeprefix('argument ').split())}; {self.prog} --help shows what there is"
        )


class _Version(argparse.Action):
    """Looked up only when asked for: the package may run without being installed."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        try:
            print("tornado-chat", importlib.metadata.version("tornado_chat"))
        except importlib.metadata.PackageNotFoundError:
            raise ConfigError("--version: the package is not installed, so it has none") from None
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="tornado-chat", description="A realtime chat server that loses, doubles and reorders nothing."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and stop")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Any, help: str, epilog: str | None = None) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".", epilog=epilog)
        made.set_defaults(run=run)
        return made

    serve = command(
        "serve",
        _serve,
        "start the server",
        "Each flag is also a variable of the environment (--port: TORNADO_CHAT_PORT) and a key of the file that "
        "--config or TORNADO_CHAT_CONFIG names (port = 8080). A flag wins over the environment, that over the file. "
        "Sizes are in bytes; times are written as 25, 25s, 500ms, 5m, 2h or 7d.",
    )
    config.add_flags(serve)

    agent = command(
        "agent",
        _agent,
        "let an agent answer in rooms: demo, or the one that a module of yours has",
        "Beside a server it makes its own token with the server's key, which --database or --secret-file lead to; "
        "elsewhere it needs one (tornado-chat token --agent).",
    )
    agent.add_argument("agent", metavar="AGENT", help="demo, or module:name, such as my_agents:agent")
    agent.add_argument(
        "--url",
        default=os.environ.get("TORNADO_CHAT_URL") or None,
        help=f"the server; also TORNADO_CHAT_URL (default: the agent's own, or {DEFAULT_URL})",
    )
    agent.add_argument(
        "--token",
        default=os.environ.get("TORNADO_CHAT_TOKEN") or None,
        help="an agent's token; better given as TORNADO_CHAT_TOKEN, since others see a process's flags (default: the "
        "agent's own, or one that is made with the server's key)",
    )
    agent.add_argument(
        "--room", action="append", dest="rooms", metavar="ROOM", help="a room that it follows; repeatable"
    )
    agent.add_argument(
        "--replicas", type=_replicas, default=1, metavar="N", help="processes; each reply is given by one (default: 1)"
    )
    agent.add_argument("--reload", action="store_true", help="start it anew when a file beside its module has changed")
    config.add_flags(agent, ("database", "secret_file", "log_format", "log_level"))

    _add_webhook_commands(commands)

    token = command("token", _token, "mint a token for a user, signed with the server's key, and print it")
    token.add_argument("--user", required=True, metavar="ID", help="user id, 1 to 64 printable characters")
    token.add_argument("--name", help="name that others see (default: the user id)")
    token.add_argument("--device", help="name of the device")
    token.add_argument("--ttl", default="7d", metavar="TIME", help="how long it is good for (default: 7d)")
    token.add_argument(
        "--rooms",
        action="append",
        metavar="PATTERN",
        help="rooms it may enter, * for any characters; repeatable, or with commas (default: all)",
    )
    token.add_argument(
        "--acts-as",
        action="append",
        metavar="PATTERN",
        help="ids of users for whom it may publish (`as`), * for any characters; for backends; repeatable, or with "
        "commas (default: none)",
    )
    token.add_argument(
        "--moderator", action="store_true", help="it may stop the growing messages of others, in the rooms it may enter"
    )
    token.add_argument("--agent", action="store_true", help="its messages say that an agent said them")
    token.add_argument(
        "--jti", metavar="ID", help="name of the session, by which it can be revoked (default: one made up at random)"
    )
    config.add_flags(token, ("database", "secret_file"))

    revoke = command(
        "revoke",
        log_commands.revoke,
        "keep a session out from now on; its connections are closed, and its token is refused",
        "For ever, and with it every token that has the same jti. Where the process list is not to show the token, "
        "give its jti; a guest's is the user id.",
    )
    revoke.add_argument("session", metavar="TOKEN_OR_JTI", help="a token, or the jti in it")
    config.add_flags(revoke, ("database",))

    tail = command(
        "tail", _tail, "print a room's messages as they come; reconnects and misses nothing; '~' is your own log"
    )
    _add_client_flags(tail)
    tail.add_argument("--last", type=_last, default=0, metavar="N", help="begin with the last N events (default: 0)")
    tail.add_argument("--json", action="store_true", help="print each event as one JSON object a line")

    send = command("send", _send, "send messages to a room; returns when the server has them all on its disk")
    _add_client_flags(send)
    send.add_argument(
        "text", nargs="?", metavar="TEXT", help="one message (default: each line of standard input that is not empty)"
    )
    send.add_argument(
        "--stream",
        action="store_true",
        help="all of standard input is one message, which grows as it comes; Ctrl-C ends it",
    )

    verify = command(
        "verify",
        _verify,
        "drive an installation with many clients, do it harm, and check that every promise holds",
        verify_options.EPILOG,
    )
    verify_options.add_flags(verify)

    migrate = command(
        "migrate",
        log_commands.migrate,
        "bring a database to the schema of this version, or make it; without loss, all or nothing",
        "Stop the servers first, and make a backup: there is no way back.",
    )
    config.add_flags(migrate, ("database",))

    copy = command(
        "copy-log",
        log_commands.copy_log,
        "copy a whole log into another database, exactly; for moving from SQLite to PostgreSQL",
        "Stop the servers first. Killed at any moment it can be run again, and goes on. At the end both are compared, "
        "room by room: the exit code is 1 if they differ. Until then no server starts on TO.",
    )
    for name, what in (("FROM", "the log that there is"), ("TO", "an empty database, or a copy that was interrupted")):
        copy.add_argument(name.lower(), metavar=name, help=f"{what}: sqlite:///PATH or postgresql://...")

    epoch = command(
        "new-epoch",
        log_commands.new_epoch,
        "give the log a new identity, so that clients start over; for after a restore from a backup",
        "Stop the server first.",
    )
    config.add_flags(epoch, ("database",))
    return parser


def _add_webhook_commands(commands: Any) -> None:
    webhook = commands.add_parser(
        "webhook",
        help="tell other programs of events, by signed HTTP requests (docs/webhooks.md)",
        description="Tell other programs of events, by signed HTTP requests.",
    )
    actions = webhook.add_subparsers(metavar="ACTION", required=True)

    def action(name: str, help: str, *, of_one: bool = True) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = actions.add_parser(
            name, help=help, description=help[0].upper() + help[1:] + "."
        )
        made.set_defaults(run=_webhook, action=name)
        if of_one:
            made.add_argument("id", type=_webhook_id, metavar="ID", help="its number, as list shows it")
        return made

    add = action("add", "tell URL of events from now on; prints the secret that signs them, this once", of_one=False)
    add.add_argument("url", metavar="URL", help="where to POST to, such as https://example.org/chat-events")
    add.add_argument(
        "--rooms",
        action="append",
        metavar="PATTERN",
        help="rooms, * for any characters; repeatable, or with commas (default: all)",
    )
    add.add_argument(
        "--events",
        action="append",
        metavar="TYPE",
        help="message, finished (the end of a message that grew), edited, deleted, reacted; repeatable, or with commas "
        "(default: all)",
    )
    show = action("list", "show all, how far they are behind, and which are failing", of_one=False)
    show.add_argument("--json", action="store_true", help="one JSON array, for programs")
    remove = action("remove", "tell it nothing more")
    resume = action("resume", "try again at once, also where it was given up; it goes on where it stopped")
    resume.add_argument("--skip", action="store_true", help="leave out the events that it refused, one in each room")
    rotate = action("rotate", "sign with a new secret, and for a day with the one before, too; prints it, this once")
    deliver = action("deliver", "tell all of them, until stopped; beside a server it does that itself", of_one=False)
    for parser in (add, show, remove, resume, rotate):
        config.add_flags(parser, ("database",))
    config.add_flags(deliver, ("database", "log_format", "log_level"))


def _webhook(args: argparse.Namespace) -> int:
    from tornado_chat import webhook_command

    actions = {
        "add": webhook_command.add,
        "list": webhook_command.show,
        "remove": webhook_command.remove,
        "resume": webhook_command.resume,
        "rotate": webhook_command.rotate,
        "deliver": webhook_command.deliver,
    }
    return actions[args.action](args)


def _webhook_id(raw: str) -> int:
    try:
        value: int = config.integer(1, 10**9)(raw)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return value


def _add_client_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("room", metavar="ROOM")
    parser.add_argument(
        "--url",
        default=os.environ.get("TORNADO_CHAT_URL") or DEFAULT_URL,
        help=f"the server; also TORNADO_CHAT_URL (default: {DEFAULT_URL})",
    )
    parser.add_argument(
        "--token",
        default=os.environ.get("TORNADO_CHAT_TOKEN") or None,
        help="who you are; better given as TORNADO_CHAT_TOKEN, since others see a process's flags (default: a guest)",
    )
    parser.add_argument("--name", help="name of a guest (default: one made up by the server)")
    parser.add_argument(
        "--transport",
        choices=TRANSPORTS,
        default="auto",
        help="how to connect: websocket, stream (server-sent events), poll (long polls), or auto: the first of these "
        "that passes (default: auto)",
    )


def _last(raw: str) -> int:
    try:
        value: int = config.integer(0, LAST_MAX)(raw)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return value


def _replicas(raw: str) -> int:
    try:
        value: int = config.integer(1, 64)(raw)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return value


def _agent(args: argparse.Namespace) -> int:
    from tornado_chat import agent_command

    if args.url is not None:
        args.url = _url(args.url)
    args.rooms = [_room(room) for room in args.rooms or ()]
    args.default_url = DEFAULT_URL
    return agent_command.run(args)


def _serve(args: argparse.Namespace) -> int:
    from tornado_chat.processes.control import Place

    place = Place.inherited(os.environ)
    if place is not None:
        return _serve_as_worker(args, place)
    settings = config.load(vars(args), os.environ)
    logs.configure(settings.log_format, settings.log_level)
    if settings.workers > 1:
        from tornado_chat.processes.supervisor import supervise

        auth.load_secret(settings)  # if it must be made, then once
        return supervise(settings, sys.argv[1:], lambda: config.load(vars(args), os.environ))
    import uvloop

    from tornado_chat.server import serve

    uvloop.run(serve(settings))
    return 0


def _serve_as_worker(args: argparse.Namespace, place: Place) -> int:
    import uvloop

    from tornado_chat.server import serve

    try:
        # How many there are is the parent's to say, whatever a changed file says now.
        settings = config.load({**vars(args), "workers": place.workers}, os.environ)
        logs.configure(settings.log_format, settings.log_level, worker=place.number)
        uvloop.run(serve(settings, place))
    except (ChatError, ConfigError, LogUnavailable, OSError) as error:
        code = 2 if isinstance(error, ConfigError) else 1
        if not place.fail(error, code):  # else the parent tells: one line for all workers, not one for each
            raise
        return code
    return 0


def _token(args: argparse.Namespace) -> int:
    settings = config.load(vars(args), os.environ, ("database", "secret_file"))
    try:
        ttl = config.duration("1s", "3650d")(args.ttl)
    except ValueError as error:
        raise ConfigError(f"--ttl: {error}") from None
    if args.user.startswith(auth.GUEST_PREFIX):
        raise ConfigError(f"--user: an id that begins with {auth.GUEST_PREFIX} is a guest's; choose another")
    rooms = _patterns("--rooms", args.rooms, "team-*")
    acts_as = _patterns("--acts-as", args.acts_as, "app-*")
    logs.configure(settings.log_format, settings.log_level)
    jti = secrets.token_urlsafe(16) if args.jti is None else auth.check_jti(args.jti)
    secret = auth.find_secret(settings)
    try:
        print(
            auth.mint(
                secret,
                args.user,
                name=args.name,
                device=args.device,
                rooms=rooms,
                ttl=ttl,
                jti=jti,
                acts_as=acts_as,
                moderator=args.moderator,
                agent=args.agent,
            )
        )
    except ChatError as error:
        raise ConfigError(error.message) from None
    return 0


def _patterns(flag: str, given: list[str] | None, example: str) -> list[str] | None:
    if given is None:
        return None
    patterns = [pattern.strip() for listed in given for pattern in listed.split(",")]
    if not all(patterns):
        raise ConfigError(f"{flag}: a pattern is empty; give such as {example!r} (quoted, or the shell replaces the *)")
    return patterns


def _tail(args: argparse.Namespace) -> int:
    from tornado_chat import console

    url, room = _url(args.url), args.room if args.room == "~" else _room(args.room)
    return asyncio.run(
        console.tail(
            url,
            room,
            transport=args.transport,
            token=args.token,
            name=args.name,
            last=args.last,
            json=args.json,
            out=sys.stdout,
        )
    )


def _send(args: argparse.Namespace) -> int:
    from tornado_chat import console

    url, room = _url(args.url), _room(args.room)
    if args.text is None and sys.stdin is None:
        raise ConfigError("standard input is closed; give TEXT, or a line for each message on standard input")
    if args.stream:
        if args.text is not None:
            raise ConfigError("TEXT: is not taken with --stream, which sends what comes on standard input")
        pieces = _pieces(sys.stdin.fileno())
        return asyncio.run(
            console.stream(url, room, pieces, transport=args.transport, token=args.token, name=args.name)
        )
    texts = _lines(sys.stdin.fileno()) if args.text is None else _one(args.text)
    try:
        return asyncio.run(console.send(url, room, texts, transport=args.transport, token=args.token, name=args.name))
    except BrokenPipeError as error:  # the network's, not that of whoever reads our output
        return _failed(error, 1)


async def _one(text: str) -> AsyncIterator[str]:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError("TEXT: is not UTF-8") from None
    if not text:
        raise ConfigError("TEXT: is empty; give one character at least")
    yield text


async def _lines(descriptor: int) -> AsyncIterator[str]:
    """The lines of a file, pipe or terminal without their ends, as they come.

    No thread reads it: one that waits for a terminal could not be stopped by Ctrl-C.
    """
    number, rest = 0, b""
    while chunk := await _read(descriptor):
        *complete, rest = (rest + chunk).split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            raise ConfigError(
                f"standard input, line {number + len(complete) + 1}: is longer than {MAX_LINE_BYTES} bytes"
            )
        for line in complete:
            number += 1
            yield _text(line, number)
    if rest:
        yield _text(rest, number + 1)


async def _pieces(descriptor: int) -> AsyncIterator[str]:
    """What a file, pipe or terminal says, as it comes; a character may come in two pieces."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        while chunk := await _read(descriptor):
            yield decoder.decode(chunk)
        yield decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise ConfigError("standard input: is not UTF-8") from None


def _text(line: bytes, number: int) -> str:
    try:
        return line.removesuffix(b"\r").decode()
    except UnicodeDecodeError:
        raise ConfigError(f"standard input, line {number}: is not UTF-8") from None


async def _read(descriptor: int) -> bytes:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    try:
        loop.add_reader(descriptor, readable.set)
    except PermissionError:  # epoll takes no regular files: they never make a reader wait
        return os.read(descriptor, 65536)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)
    return os.read(descriptor, 65536)


def _verify(args: argparse.Namespace) -> int:
    options = verify_options.load(args, _url)
    import uvloop

    from tornado_chat.verify.run import verify

    logs.configure("text", "warning")
    return uvloop.run(verify(options))


def _room(room: str) -> str:
    from tornado_chat.wire.commands import room_name

    try:
        return room_name(room)
    except ChatError as error:
        raise ConfigError(f"ROOM: {error.message}") from None


def _url(url: str) -> str:
    """`url` if it can be a server's; the client makes the WebSocket's address of it."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https", "ws", "wss") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise ConfigError(
            f"--url: {url!r} is not the address of a server, such as {DEFAULT_URL} or wss://example.org/ws"
        )
    return url
