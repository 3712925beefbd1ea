"""Writing to an SQLite log: numbering, duplicates, amendments. Blocking; the writer's thread calls it.

Few, long statements: each `sqlite3_step` gives the GIL away, and beside a busy event loop it may have to wait until it
has it back. So a batch of new messages is one INSERT in autocommit mode. Measured with the bare statements,
256 messages a batch, one core: 205,000 a second, by executemany() 165,000, by json_each() 140,000; beside a busy event
loop 114,000, 98,000 and 84,000.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import orjson

from tornado_chat.errors import ChatError, ErrorCode, LogUnavailable
from tornado_chat.log import Along, Appended, Entry, own, sqlite_growing, sqlite_sweeper, sweeping
from tornado_chat.log.growing import Begin, Checkpoint, Finish, Orphan
from tornado_chat.log.kinds import KINDS, made_along, portion, rooms_of
from tornado_chat.log.rows import more_of, refusal, unwanted
from tornado_chat.log.schema import new_epoch
from tornado_chat.log.sqlite_file import Connected, prepare, transaction
from tornado_chat.log.sqlite_turn import Turn
from tornado_chat.log.sweeping import Mark
from tornado_chat.wire.events import OWN_TYPES

Outcome = Appended | ChatError
Name = tuple[str, str, str]  # room, user, key

COLUMNS = 'room, seq, type, user, name, key, hidden, text, reply_to, meta, target, emoji, "on", previous_message, ts'
WIDTH = COLUMNS.count(",") + 1
# Rows of the prepared INSERTs; a batch takes the next size and leaves the rows that it does not need NULL.
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
CACHED_ROOMS = 10_000
CACHED_SENDERS = 100_000

# What SQLite or the way to it refuses because of an entry's own values.
DATA_ERRORS = (
    UnicodeEncodeError,
    OverflowError,
    TypeError,
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.ProgrammingError,
    sqlite3.InterfaceError,
)


def _insert_of(rows: int) -> str:
    row = f"({', '.join('?' * WIDTH)})"
    values = ", ".join([row] * rows)
    return f"INSERT INTO events ({COLUMNS}) SELECT * FROM (VALUES {values}) WHERE column1 IS NOT NULL"


INSERT_NAMING = f"INSERT INTO events ({COLUMNS}, more) VALUES ({', '.join('?' * (WIDTH + 1))})"
INSERTS = tuple(_insert_of(rows) for rows in SIZES)
INSERT_FOR = tuple(next(i for i, size in enumerate(SIZES) if size >= rows) for rows in range(SIZES[-1] + 1))

HEADS = """
SELECT json_group_array(json_array(
    r.name, r.id, e.seq, coalesce(e.previous_message, e.seq), e.ts,
    coalesce((SELECT number FROM others WHERE room = r.id ORDER BY seq DESC LIMIT 1), 0)
))
FROM json_each(?) AS wanted CROSS JOIN rooms AS r ON r.name = wanted.value
CROSS JOIN events AS e ON e.room = r.id AND e.seq = (SELECT max(seq) FROM events WHERE room = r.id)
"""
FIRSTS = """
SELECT json_group_array(json_array(wanted.key, e.seq, e.ts))
FROM json_each(?) AS wanted CROSS JOIN rooms AS r ON r.name = json_extract(wanted.value, '$[0]')
CROSS JOIN events AS e ON e.room = r.id
    AND e.user = json_extract(wanted.value, '$[1]') AND e.key = json_extract(wanted.value, '$[2]')
"""
MARKS = """
SELECT json_group_array(json_array(wanted.key, m.seq))
FROM json_each(?) AS wanted CROSS JOIN marks AS m
ON m.room = json_extract(wanted.value, '$[0]') AND m.user = json_extract(wanted.value, '$[1]')
"""
# Their `target` is what `kinds.made_along` says, `previous_message` that there is none.
INSERT_OWN = """
INSERT INTO events (room, seq, type, user, name, key, hidden, target, previous_message, more, ts)
SELECT
    json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'), json_extract(value, '$[3]'),
    json_extract(value, '$[4]'), json_extract(value, '$[5]'), true, json_extract(value, '$[6]'), 0,
    json_extract(value, '$[7]'), json_extract(value, '$[8]')
FROM json_each(?)
"""
# A prefix of each log goes; in steady state one event for each that comes.
CUT_OWN = """
DELETE FROM events WHERE (room, seq) IN (
    SELECT e.room, e.seq FROM json_each(?) AS log CROSS JOIN events AS e
    ON e.room = json_extract(log.value, '$[0]') AND e.seq <= json_extract(log.value, '$[1]')
)
"""
INSERT_MENTIONS = """
INSERT OR IGNORE INTO mentions (own, room, target, seq)
SELECT
    json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'), json_extract(value, '$[3]')
FROM json_each(?)
"""
CUT_MENTIONS = """
DELETE FROM mentions WHERE own = ?1 AND seq <= (
    SELECT seq FROM mentions WHERE own = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2
)
"""
FORGET_MENTIONS = """
DELETE FROM mentions WHERE (own, room, target) IN (
    SELECT m.own, m.room, m.target FROM json_each(?) AS read CROSS JOIN mentions AS m
    ON m.own = json_extract(read.value, '$[0]') AND m.room = json_extract(read.value, '$[1]')
        AND m.target <= json_extract(read.value, '$[2]')
)
"""
FOLLOWED = "SELECT level, inviter FROM follows WHERE own = ? AND room = ?"
FOLLOWING = "SELECT count(*), count(inviter) FROM follows WHERE own = ?"
FOLLOW = """
INSERT INTO follows (own, room, level, inviter) VALUES (?, ?, ?, ?)
ON CONFLICT (own, room) DO UPDATE SET level = excluded.level, inviter = excluded.inviter
"""
UNFOLLOW = "DELETE FROM follows WHERE own = ? AND room = ?"
# Whoever has sent since the room was settled, and their last message.
SENDERS = """
SELECT json_group_array(json_array(user, seq)) FROM (
    SELECT user, max(seq) AS seq FROM events
    WHERE room = :room AND seq > coalesce((SELECT seq FROM settled WHERE room = :room), 0) AND seq <= :head
        AND type = 'message' AND "on" IS NULL
    GROUP BY user
)
"""
# A guest's mark lapses; one that there is does so when it did.
SETTLE = """
INSERT INTO marks (room, user, seq, lapses)
SELECT ?1, key, value, CASE WHEN key >= 'guest-' AND key < 'guest.' THEN ?2 END FROM json_each(?3) WHERE true
ON CONFLICT (room, user) DO UPDATE SET seq = max(seq, excluded.seq)
"""
SETTLED = """
INSERT INTO settled (room, seq) VALUES (?, ?) ON CONFLICT (room) DO UPDATE SET seq = excluded.seq
"""
SET_MARKS = """
INSERT INTO marks (room, user, seq, lapses)
SELECT
    json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'), json_extract(value, '$[3]')
FROM json_each(?) WHERE true
ON CONFLICT (room, user) DO UPDATE SET seq = excluded.seq, lapses = excluded.lapses
"""
COUNT_OTHERS = """
INSERT INTO others (room, seq, number)
SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]') FROM json_each(?)
"""
AMEND = """
INSERT INTO amendments (room, target, text, edited) VALUES (?, ?, ?, ?)
ON CONFLICT (room, target) DO UPDATE SET text = excluded.text, edited = excluded.edited
"""
# A reaction does not wait until its target has ended.
TARGET = """
SELECT
    CASE WHEN "on" = 1 AND target IS NULL AND type = 'message' AND ? <> 'reacted' THEN 'growing' ELSE type END,
    user, text IS NULL
FROM events WHERE room = ? AND seq = ?
"""
# With the `finished` of a message that grew.
ERASE = """
UPDATE events SET text = NULL, meta = NULL, more = NULL
WHERE room = ?1 AND seq IN (?2, (SELECT target FROM events WHERE room = ?1 AND seq = ?2))
"""
REVOKE = "INSERT INTO revocations (jti) SELECT ? WHERE NOT EXISTS (SELECT 1 FROM revocations WHERE jti = ?)"


class Head:
    """Where a room stands: the row's `id`, its last `seq`, the seq of its last message (0: none), its last `ts`, how
    many `others` than messages it has, and the seq from which on its messages are to be settled.

    `senders`: whoever has sent since it was settled, and the seq of their last message that moves their mark; None: to
    be looked up when it is wanted.
    """

    __slots__ = ("id", "message", "others", "senders", "seq", "settle_at", "ts")

    def __init__(self, id: int, seq: int, message: int, ts: int, others: int) -> None:
        self.id = id
        self.seq = seq
        self.message = message
        self.ts = ts
        self.others = others
        self.senders: dict[str, int] | None = None if seq else {}
        # Not at the same seq in all rooms: what is sent to each of many comes to it in one batch.
        self.settle_at = seq + own.SETTLED - (seq + id) % own.SETTLED


class OwnRows:
    """What a batch writes to logs of one's own, gathered for few statements."""

    __slots__ = ("cuts", "events", "looks", "mentions", "read")

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []  # as INSERT_OWN wants them
        self.cuts: dict[int, int] = {}  # by log, up to which seq its events go
        self.mentions: list[tuple[int, int, int, int]] = []
        self.read: list[tuple[int, int, int]] = []  # own log, room, mark: the mentions that were read
        self.looks: list[int] = []  # logs that may have too many mentions


class Writer(Connected):
    """The one connection of this process that writes, in its turn; makes the file first if there is none.

    `_heads` caches where the rooms stand as of the last commit. It is never trusted with a number: the primary key
    refuses one that is taken, and then the batch is done again with what the file says. While other connections write
    too, SQLite is asked each time whether one has (5 us, and two waits for the GIL).
    """

    def __init__(self, path: str, busy_timeout: float, restart_timeout: float) -> None:
        prepare(path, busy_timeout)
        super().__init__(path, busy_timeout)
        self.epoch: str = self.db.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()[0]
        self.erased = False  # something was erased whose bytes still stand in the write-ahead log
        self._busy_timeout = busy_timeout
        self._restart_timeout = restart_timeout
        try:
            self._turn = Turn(path)
        except OSError as error:
            self.db.close()
            raise LogUnavailable(f"{path}-wal cannot be opened: {error.strerror}") from error
        self._heads: dict[str, Head] = {}
        self._own_logs = sweeping.OwnLogs()
        self._noted = 0  # messages that may have made a sender in `_heads` since those were counted
        self._version = 0  # of the data, as SQLite counts what other connections commit, at which `_heads` were read
        self._shared = True  # another connection had written when SQLite was asked last
        self._erasable = 0  # edits that may still be erased in this transaction

    def append(self, batch: Sequence[Entry], limit: int | None = None) -> list[Outcome]:
        """As `Log.append` says. LogUnavailable if SQLite could not: then nothing of `batch` was written."""
        with self._writing():
            batch = portion(batch[:limit], limit)  # a copy in one step for the GIL: the loop may add to it at any time
            self._noted += len(batch)
            if self._noted > CACHED_SENDERS:
                self._count_senders()
            try:
                return self._append(batch)
            except DATA_ERRORS:
                return self._transaction(lambda: self._write_singly(batch))

    def _append(self, batch: Sequence[Entry]) -> list[Outcome]:
        # An edit, a deletion and a reaction look at their target, and a duplicate must be known before that. A message
        # looks at nothing: the unique index finds the few that are duplicates.
        types = {entry.type for entry in batch}
        plain = types <= {"message", "read"}
        try:
            if types == {"message"} and self._fits_one_statement(batch):
                return self._append_messages(batch)
            return self._transaction(lambda: self._write(batch, look_up=not plain))
        except sqlite3.IntegrityError:
            return self._transaction(lambda: self._write(batch, look_up=True))

    def new_epoch(self) -> str:
        """Give the log a new identity."""
        epoch = new_epoch()
        with self._writing():
            self.db.execute("UPDATE meta SET value = ? WHERE name = 'epoch'", (epoch,))
        return epoch

    def checkpoint(self, home: str, parts: Sequence[Checkpoint]) -> list[bool]:
        """As `Log.checkpoint` says."""
        with self._writing(), transaction(self.db, "BEGIN IMMEDIATE"):
            return sqlite_growing.checkpoint(self.db, home, parts)

    def hand_over(self, home: str, parts: Sequence[Checkpoint]) -> None:
        """As `Log.hand_over` says."""
        with self._writing(), transaction(self.db, "BEGIN IMMEDIATE"):
            sqlite_growing.hand_over(self.db, home, parts)

    def stop(self, room: str, seqs: Sequence[int], by: str) -> None:
        """As `Log.stop` says."""
        with self._writing():
            sqlite_growing.stop(self.db, room, seqs, by)

    def orphan(self, home: str) -> list[Orphan]:
        """As `Log.orphan` says."""
        with self._writing(), transaction(self.db, "BEGIN IMMEDIATE"):
            return sqlite_growing.orphan(self.db, home)

    def revoke(self, jti: str) -> None:
        """As `Log.revoke` says."""
        with self._writing():
            self.db.execute(REVOKE, (jti, jti))

    def sweep(self, renewed: list[Mark]) -> bool:
        """As `Log.sweep` says; `renewed` are the marks that shall not lapse yet."""
        with self._writing(), transaction(self.db, "BEGIN IMMEDIATE"):
            if renewed:
                sqlite_sweeper.renew_marks(self.db, renewed)
            erased = sqlite_sweeper.erase_more(self.db)
            forgotten = sqlite_sweeper.forget_marks(self.db)
            cutting = sqlite_sweeper.cut_own(self.db, self._own_logs)
        self.erased = self.erased or erased
        return erased or forgotten == sweeping.MARKS or cutting

    def probe(self) -> None:
        """A commit that changes nothing; LogUnavailable if there is none to be had."""
        with self._writing():
            self.db.execute("UPDATE meta SET value = value WHERE name = 'epoch'")

    def restart_journal(self) -> bool:
        """Copy what is left of the write-ahead log into the file, so that the next commit begins it anew.

        False if readers or another process were in the way for too long.
        """
        # TRUNCATE leaves no byte of an erased text. RESTART leaves the length: overwriting is faster than growing.
        mode = "TRUNCATE" if self.erased else "RESTART"
        with self._writing():
            self._wait_for_locks(self._restart_timeout)
            try:
                busy: int = self.db.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()[0]
            finally:
                self._wait_for_locks(self._busy_timeout)
        if not busy:
            self.erased = False
        return not busy

    def close(self) -> None:
        try:
            self._wait_for_locks(self._restart_timeout)
            self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            self._turn.close()
            super().close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Inside it is this process's turn; LogUnavailable if there is none, or for what SQLite could not do there."""
        try:
            with self._turn:
                yield
        except sqlite3.Error as error:
            raise LogUnavailable(f"SQLite: {error}") from error
        except OSError as error:
            raise LogUnavailable(f"no turn to write: {error}") from error

    def _wait_for_locks(self, seconds: float) -> None:
        self.db.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")

    # One statement

    def _fits_one_statement(self, batch: Sequence[Entry]) -> bool:
        """Whether these messages are few enough, and their rooms are there."""
        if len(batch) > SIZES[-1] or [entry for entry in batch if entry.mentions]:
            return False
        rooms = {entry.room for entry in batch}
        if self._shared or not rooms <= self._heads.keys():
            self._load_heads(rooms)
        return rooms <= self._heads.keys()

    def _append_messages(self, batch: Sequence[Entry]) -> list[Outcome]:
        now = int(time.time() * 1000)
        heads = self._heads
        values: list[Any] = []
        outcomes: list[Outcome] = []
        try:
            due: list[Head] = []
            for entry in batch:
                head = heads[entry.room]
                _number(head, entry, now, values)
                outcomes.append(Appended(head.seq, head.ts, head.seq - head.others))
                if head.seq == head.settle_at:
                    due.append(head)
            if due:
                with transaction(self.db, "BEGIN IMMEDIATE"):
                    self._insert(values)
                    self._settle(due)
            else:
                self._insert(values)
        except BaseException:
            heads.clear()  # they have moved on, the log has not
            raise
        return outcomes

    def _senders(self, head: Head) -> dict[str, int]:
        """As `Head.senders`, as of the head, all of which is inserted."""
        if head.senders is None:
            found = self.db.execute(SENDERS, {"room": head.id, "head": head.seq}).fetchone()[0]
            head.senders = dict(orjson.loads(found))
            self._noted += len(head.senders)
        return head.senders

    def _count_senders(self) -> None:
        """Forget those that are cached if they are many."""
        self._noted = sum(len(head.senders) for head in self._heads.values() if head.senders)
        if self._noted > CACHED_SENDERS // 2:
            self._noted = 0
            for head in self._heads.values():
                head.senders = None

    def _settle(self, due: Iterable[Head]) -> None:
        """Let the messages of these rooms move their senders' marks in `marks`."""
        for head in due:
            self.db.execute(SETTLE, (head.id, sweeping.lapse(), _json(self._senders(head))))
            self.db.execute(SETTLED, (head.id, head.seq))
            head.senders = {}
            head.settle_at = head.seq + own.SETTLED - (head.seq + head.id) % own.SETTLED

    def _insert(self, values: list[Any]) -> None:
        """Insert any number of rows, given as one flat list."""
        step = SIZES[-1] * WIDTH
        for start in range(0, len(values), step):
            part = values[start : start + step] if len(values) > step else values
            size = INSERT_FOR[len(part) // WIDTH]
            part += [None] * (SIZES[size] * WIDTH - len(part))
            self.db.execute(INSERTS[size], part)

    # One transaction

    def _transaction(self, write: Callable[[], list[Outcome]]) -> list[Outcome]:
        self._erasable = sweeping.EDITS
        try:
            self.db.execute("BEGIN IMMEDIATE")
            outcomes = write()
            self.db.execute("COMMIT")
        except BaseException:
            self._heads.clear()
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
            raise
        return outcomes

    def _write_singly(self, batch: Sequence[Entry]) -> list[Outcome]:
        """As `_write`, but an entry that is refused for its data fails alone."""
        outcomes: list[Outcome] = []
        for entry in batch:
            self.db.execute("SAVEPOINT entry")
            try:
                outcomes += self._write((entry,), look_up=True)
            except DATA_ERRORS as error:
                self.db.execute("ROLLBACK TO entry")
                self._heads.clear()
                outcomes.append(ChatError(ErrorCode.BAD_REQUEST, f"{entry.type} cannot be stored: {error}"))
            self.db.execute("RELEASE entry")
        return outcomes

    def _write(self, batch: Sequence[Entry], *, look_up: bool) -> list[Outcome]:
        """Write `batch` in its order.

        Without `look_up` an entry that is in the log already makes it raise IntegrityError, and none may be anything
        but a `message` or a `read`.
        """
        now = int(time.time() * 1000)
        self._load_heads({room for entry in batch for room in rooms_of(entry)})
        firsts = self._load_firsts(batch) if look_up else {}
        marks = self._load_marks(batch)
        moved: dict[tuple[int, str], tuple[int, int | None]] = {}
        values: list[Any] = []  # the rows that are not inserted yet
        others: list[tuple[int, int, int]] = []
        owns = OwnRows()
        due: dict[Head, None] = {}
        outcomes: list[Outcome] = []
        for entry in batch:
            if entry.type == "read":
                outcomes.append(self._read_mark(entry, marks, moved, owns, now))
                continue
            name = (entry.room, entry.user, entry.key)
            first = firsts.get(name)
            if first is not None and entry.type != "begin":
                error = None
                if isinstance(entry, Finish):
                    self._insert(values)
                    values = []
                    error = sqlite_growing.not_its_end(self.db, self._heads[entry.room].id, first[0], entry)
                outcomes.append(error or Appended(*first, duplicate=True))
                continue
            along: Sequence[Along] = ()
            if entry.type == "message":
                head = self._head(entry.room)
                _number(head, entry, now, values)
                n = head.seq - head.others
                pair = (entry.room, entry.user)
                if entry.on is None and pair in marks:
                    marks[pair] = head.seq
                if entry.mentions:
                    self.db.execute(INSERT_NAMING, (*values[-WIDTH:], more_of(entry)))
                    del values[-WIDTH:]
                    along = [self._add_own(made, owns, now) for made in made_along(entry, head.seq)]
                    owns.mentions += [(self._heads[made.room].id, head.id, head.seq, seq) for made, seq, _ in along]
            elif entry.type in OWN_TYPES:
                outcome = self._follow(entry, owns, now)
                if isinstance(outcome, Appended) and outcome.changed:
                    firsts[name] = (outcome.seq, outcome.ts)
                outcomes.append(outcome)
                continue
            else:
                if values:
                    self._insert(values)
                    values = []
                if isinstance(entry, Begin):
                    outcome = self._begin(entry, first, now)
                    if isinstance(outcome, Appended):
                        firsts[name] = (outcome.seq, outcome.ts)
                        head = self._heads[entry.room]
                        if head.seq >= head.settle_at:
                            due[head] = None
                    outcomes.append(outcome)
                    continue
                refusal = self._refusal(entry)
                if refusal is not None:
                    outcomes.append(refusal)
                    continue
                head = self._head(entry.room)
                _number(head, entry, now, values)
                head.others += 1
                others.append((head.id, head.seq, head.others))
                n = 0
                self._amend(entry, head)
            if head.seq >= head.settle_at:
                due[head] = None
            firsts[name] = (head.seq, head.ts)
            outcomes.append(Appended(head.seq, head.ts, n, along=along))
        if values:
            self._insert(values)
        if others:
            self.db.execute(COUNT_OTHERS, (_json(others),))
        if moved:
            rows = [(*mark, *place) for mark, place in moved.items()]
            self.db.execute(SET_MARKS, (_json(rows),))
        self._write_own(owns)
        self._settle(due)
        return outcomes

    def _add_own(self, entry: Entry, owns: OwnRows, now: int) -> Along:
        """Number an event of a log of one's own; `_write_own` writes it."""
        head = self._head(entry.room)
        head.seq = seq = head.seq + 1
        head.ts = ts = max(head.ts, now)
        key = entry.key or f"@{seq}"
        owns.events.append((head.id, seq, entry.type, entry.user, entry.name, key, entry.target, more_of(entry), ts))
        if seq > own.KEPT:
            owns.cuts[head.id] = seq - own.KEPT
        if entry.type == "mentioned" and not seq % own.MENTIONS_LOOK:
            owns.looks.append(head.id)
        return entry, seq, ts

    def _write_own(self, owns: OwnRows) -> None:
        execute = self.db.execute
        if owns.events:
            execute(INSERT_OWN, (_json(owns.events),))
        if owns.cuts:
            execute(CUT_OWN, (_json(list(owns.cuts.items())),))
        if owns.read:
            execute(FORGET_MENTIONS, (_json(owns.read),))
        if owns.mentions:
            execute(INSERT_MENTIONS, (_json(owns.mentions),))
        for id in owns.looks:
            execute(CUT_MENTIONS, (id, own.MENTIONS))

    def _follow(self, entry: Entry, owns: OwnRows, now: int) -> Outcome:
        """A `followed` or `unfollowed`."""
        execute = self.db.execute
        place = self._head(entry.room).id, self._head(entry.about).id
        found = execute(FOLLOWED, place).fetchone()
        if entry.type == "unfollowed":
            if found is None:
                return Appended(0, now, changed=False)
            execute(UNFOLLOW, place)
        else:
            inviter = None if entry.room == own.room_of(entry.user) else entry.user
            if found is None:
                error = unwanted(entry, *execute(FOLLOWING, place[:1]).fetchone())
                if error is not None:
                    return error
            elif inviter is not None or found == (entry.level, None):
                return Appended(0, now, changed=False)
            execute(FOLLOW, (*place, entry.level, inviter))
        _, seq, ts = self._add_own(entry, owns, now)
        return Appended(seq, ts)

    def _load_heads(self, rooms: set[str]) -> None:
        """Bring `_heads` up to date for those of `rooms` that are there."""
        version: int = self.db.execute("PRAGMA data_version").fetchone()[0]
        self._shared = version != self._version
        self._version = version
        if self._shared or len(self._heads) > CACHED_ROOMS:
            self._heads.clear()
        wanted = rooms - self._heads.keys()
        if wanted:
            for name, *head in self._array(HEADS, list(wanted)):
                self._heads[name] = Head(*head)

    def _load_firsts(self, batch: Sequence[Entry]) -> dict[Name, tuple[int, int]]:
        """The seq and ts of those entries that are in the log already."""
        wanted = [(entry.room, entry.user, entry.key) for entry in batch if entry.type != "read"]
        return {wanted[place]: (seq, ts) for place, seq, ts in self._array(FIRSTS, wanted)}

    def _load_marks(self, batch: Sequence[Entry]) -> dict[Mark, int]:
        """The marks of all who read in this batch; 0: none."""
        marks: dict[Mark, int] = {}
        for entry in batch:
            if entry.type == "read":
                head = self._heads.get(entry.room)
                marks[entry.room, entry.user] = 0 if head is None else self._senders(head).get(entry.user, 0)
        if marks:
            pairs = [pair for pair in marks if pair[0] in self._heads]
            wanted = [(self._heads[room].id, user) for room, user in pairs]
            for place, seq in self._array(MARKS, wanted):
                marks[pairs[place]] = max(marks[pairs[place]], seq)
        return marks

    def _array(self, query: str, parameter: list[Any]) -> list[list[Any]]:
        """The rows of `query`, which makes one JSON array of them: one step instead of one for each row."""
        rows: list[list[Any]] = orjson.loads(self.db.execute(query, (_json(parameter),)).fetchone()[0])
        return rows

    def _head(self, room: str) -> Head:
        head = self._heads.get(room)
        if head is None:
            # A log that was copied may hold a room that no event came to.
            self.db.execute("INSERT OR IGNORE INTO rooms (name) VALUES (?)", (room,))
            id: int = self.db.execute("SELECT id FROM rooms WHERE name = ?", (room,)).fetchone()[0]
            head = self._heads[room] = Head(id, 0, 0, 0, 0)
        return head

    def _read_mark(
        self,
        entry: Entry,
        marks: dict[Mark, int],
        moved: dict[tuple[int, str], tuple[int, int | None]],
        owns: OwnRows,
        now: int,
    ) -> Appended:
        head = self._heads.get(entry.room)
        if head is None:
            return Appended(0, now, changed=False)
        pair = (entry.room, entry.user)
        mark = marks[pair]
        seq = min(entry.seq or 0, head.seq)
        if seq <= mark:
            return Appended(mark, now, changed=False)
        marks[pair] = seq
        moved[head.id, entry.user] = seq, sweeping.lapse() if entry.lapses else None
        along = [self._add_own(made, owns, now) for made in made_along(entry, seq)]
        owns.read.append((self._heads[along[0][0].room].id, head.id, seq))
        return Appended(seq, now, along=along)

    def _begin(self, entry: Begin, first: tuple[int, int] | None, now: int) -> Outcome:
        """Make a new message grow, or let the `first` of its key go on."""
        head = self._head(entry.room)
        if first is not None:
            claim = sqlite_growing.claim(self.db, head.id, first[0], entry)
            if isinstance(claim, ChatError):
                return claim
            outcome = Appended(*first, duplicate=True)
        else:
            values: list[Any] = []
            _number(head, entry, now, values)
            self._insert(values)
            claim = sqlite_growing.begin(self.db, head.id, head.seq, entry)
            outcome = Appended(head.seq, head.ts, head.seq - head.others)
        outcome.claim = claim
        return outcome

    def _refusal(self, entry: Entry) -> ChatError | None:
        """Why `entry` cannot be done to its target; None if it can."""
        target, room = entry.target, entry.room
        head = self._heads.get(room)
        row = None
        if head is not None:
            if isinstance(entry, Finish):
                return sqlite_growing.refusal(self.db, head.id, entry)
            row = self.db.execute(TARGET, (entry.type, head.id, target)).fetchone()
        return refusal(entry, row)

    def _amend(self, entry: Entry, head: Head) -> None:
        """Bring the present state of the target up to date with `entry`."""
        execute = self.db.execute
        target: tuple[int, Any] = (head.id, entry.target)
        folds = KINDS[entry.type].folds
        if folds == "text":
            execute(AMEND, (*target, entry.text, head.ts))
        elif folds == "erasure":
            execute(ERASE, target)
            if execute("UPDATE amendments SET text = NULL WHERE room = ? AND target = ?", target).rowcount:
                self._erasable -= sqlite_sweeper.erase_edits(self.db, *target, self._erasable)
            execute("DELETE FROM reactions WHERE room = ? AND target = ?", target)
            self.erased = True
        elif folds == "growth":
            sqlite_growing.end(self.db, head.id, entry.target or 0, head.seq)
        elif entry.on:
            reaction = (*target, entry.emoji, entry.user)
            execute("INSERT OR IGNORE INTO reactions (room, target, emoji, user) VALUES (?, ?, ?, ?)", reaction)
        else:
            reaction = (*target, entry.emoji, entry.user)
            execute("DELETE FROM reactions WHERE room = ? AND target = ? AND emoji = ? AND user = ?", reaction)


def _number(head: Head, entry: Entry, now: int, values: list[Any]) -> None:
    """Give `entry` the room's next seq and a ts that is not before the last one; adds its row to `values`."""
    head.seq = seq = head.seq + 1
    if now > head.ts:
        head.ts = now
    meta, type = entry.meta, entry.type
    if type == "begin":
        type = "message"
    if type == "message":
        previous_message = None
        head.message = seq
        if head.senders is not None and entry.on is None:
            head.senders[entry.user] = seq
    else:
        previous_message = head.message
    values += (
        head.id,
        seq,
        type,
        entry.user,
        entry.name,
        entry.key,
        entry.id is None,
        entry.text,
        entry.reply_to,
        None if meta is None else meta.decode(),
        entry.target,
        entry.emoji,
        entry.on,
        previous_message,
        head.ts,
    )


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
