"""Connections to PostgreSQL, each with a task that takes calls out of one bounded queue."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import asyncpg

from tornado_chat.errors import LogUnavailable
from tornado_chat.log import schema
from tornado_chat.log.postgres_schema import Connection
from tornado_chat.tasks import Tasks

R = TypeVar("R")
Work = Callable[[Connection], Awaitable[Any]]
Job = tuple["asyncio.Future[Any]", Work, float]

DATA_ERRORS = (ValueError, OverflowError, TypeError, asyncpg.DataError, asyncpg.ProgramLimitExceededError)
"""What is raised because of an entry's own values: by Python and asyncpg before anything is sent, or by PostgreSQL."""

FAILURES = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, EOFError)
"""What is raised because of the server or of the way to it. InternalClientError: the server has said goodbye to a
connection and not closed it yet."""


# What the statements of the log rely on, whatever the server's own configuration says. They are sent with each new
# connection: behind a pgbouncer they must stand in its `ignore_startup_parameters`, and be set for the role instead.
SETTINGS = {
    "application_name": "tornado_chat",
    "synchronous_commit": "on",  # a power failure loses nothing that was acknowledged
    "default_transaction_isolation": "read committed",  # what was committed while a lock was waited for is seen
    # A plan is made once, perhaps while the tables are empty: it must be the one for great tables, by their indexes.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}


class Pool:
    """`size` connections to the database at the URL `database`, made when they are needed; `start` comes first.

    Calls are taken first come first served. `limit` of them may wait at most, each for `timeout` seconds, in which a
    connection that was lost is made again; one that nobody waits for any more when its turn comes is not begun.
    """

    def __init__(self, name: str, database: str, *, size: int, limit: int, timeout: float) -> None:
        self.name = name
        self._database = database
        self._where = f"PostgreSQL at {schema.shown(database)}"
        self._size = size
        self._limit = limit
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._jobs: asyncio.Queue[Job | None] = asyncio.Queue()
        self._under_way: dict[asyncio.Future[Any], float] = {}  # calls that no task has finished, and since when
        self._closed = False
        self._tasks = Tasks()

    def start(self) -> None:
        for number in range(self._size):
            self._tasks.spawn(self._run(), name=f"log-{self.name}-{number}")

    async def call(self, work: Callable[[Connection], Awaitable[R]]) -> R:
        """The result of `work(connection)`; LogUnavailable if there is none in time.

        DATA_ERRORS of `work` come through as they are, and leave the connection in use.
        """
        if self._closed:
            raise LogUnavailable("the log is closed")
        if len(self._under_way) >= self._limit:
            raise LogUnavailable(f"{len(self._under_way)} calls wait for the log's {self.name} already")
        future: asyncio.Future[R] = self._loop.create_future()
        now = self._under_way[future] = self._loop.time()
        self._jobs.put_nowait((future, work, now + self._timeout))
        return await future

    def delay(self) -> float:
        """Seconds for which the oldest call that is not finished has been under way; 0.0 if there is none."""
        now = self._loop.time()
        return now - next(iter(self._under_way.values()), now)

    async def close(self) -> None:
        """Finish the calls that wait, then end the connections."""
        if not self._closed:
            self._closed = True
            for _ in range(self._size):
                self._jobs.put_nowait(None)
        await self._tasks.finished()  # each call has its time limit

    async def _run(self) -> None:
        db: Connection | None = None
        try:
            while (job := await self._jobs.get()) is not None:
                future, work, deadline = job
                result: Any = None
                failure: Exception | None = None
                if not future.done():
                    try:
                        async with asyncio.timeout_at(deadline):
                            if db is None or db.is_closed():
                                db = None
                                db = await self._connect()
                            result = await work(db)
                    except Exception as error:
                        failure = self._explained(error)
                        # After refused data the connection is as it was. After anything else nobody knows what it
                        # still does or holds.
                        if db is not None and not isinstance(error, DATA_ERRORS):
                            db.terminate()
                            db = None
                del self._under_way[future]
                if not future.done():
                    if failure is not None:
                        future.set_exception(failure)
                    else:
                        future.set_result(result)
                del job, future, work, result, failure
        finally:
            if db is not None:
                await _close(db)

    async def _connect(self) -> Connection:
        milliseconds = str(max(1, int(self._timeout * 1000)))
        return await asyncpg.connect(
            self._database,
            timeout=self._timeout,
            max_cached_statement_lifetime=0,  # prepared once for each connection
            server_settings=SETTINGS
            | {
                # A statement that nobody waits for any more gives its locks back.
                "statement_timeout": milliseconds,
                "idle_in_transaction_session_timeout": milliseconds,
            },
        )

    def _explained(self, error: Exception) -> Exception:
        if isinstance(error, TimeoutError | asyncpg.QueryCanceledError):
            return LogUnavailable(f"{self._where}: no answer within {self._timeout:g} s")
        if isinstance(error, FAILURES) and not isinstance(error, DATA_ERRORS):
            unavailable = LogUnavailable(f"{self._where}: {first_line(error)}")
            unavailable.__cause__ = error
            return unavailable
        return error


def first_line(error: Exception) -> str:
    """What `error` says, without PostgreSQL's details and hints, which repeat what was sent."""
    return (str(error).partition("\n")[0] or type(error).__name__)[:200]


async def _close(db: Connection) -> None:
    try:
        await db.close(timeout=1.0)
    except (*FAILURES, TimeoutError):
        db.terminate()
