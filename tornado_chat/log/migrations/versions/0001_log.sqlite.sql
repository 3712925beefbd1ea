-- The identity of the file: `epoch`.
CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- A room has a row from its first event on. Its head is the greatest seq of its events.
CREATE TABLE rooms (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
);

-- Clustered by room, so that a page of a room's past is read from neighbouring pages of the file.
-- text: NULL once a `deleted` erased it. hidden: the client gave no id, the key was made up for it.
-- last_message: of what is no message, the seq of the last message before it (0: none), so that history steps over
-- a run of other events, however long, without an index that every message would have to pay for.
CREATE TABLE events (
    room INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    type TEXT NOT NULL,
    user TEXT NOT NULL,
    name TEXT,
    key TEXT NOT NULL,
    hidden INTEGER NOT NULL,
    text TEXT,
    reply_to INTEGER,
    meta TEXT,
    target INTEGER,
    emoji TEXT,
    "on" INTEGER,
    last_message INTEGER,
    ts INTEGER NOT NULL,
    PRIMARY KEY (room, seq)
) WITHOUT ROWID;

-- An id names one event of its user in its room, for ever. The key comes first: where keys begin with the time, those
-- of a batch stand side by side, whoever's they are, and the index costs one page instead of one for each event.
-- Measured with 256 messages a batch, 10 rooms, 100 users: 128,000 a second instead of 79,000; random keys: the same.
CREATE UNIQUE INDEX keys ON events (key, room, user);

-- What a `deleted` has to erase.
CREATE INDEX edits ON events (room, target) WHERE type = 'edited';

-- The last edit of a message; text: NULL once the message was deleted. edited: ms since 1970.
CREATE TABLE amendments (
    room INTEGER NOT NULL,
    target INTEGER NOT NULL,
    text TEXT,
    edited INTEGER NOT NULL,
    PRIMARY KEY (room, target)
) WITHOUT ROWID;

-- The reactions that stand.
CREATE TABLE reactions (
    room INTEGER NOT NULL,
    target INTEGER NOT NULL,
    emoji TEXT NOT NULL,
    user TEXT NOT NULL,
    PRIMARY KEY (room, target, emoji, user)
) WITHOUT ROWID;

-- The last event that a user has read.
CREATE TABLE marks (
    room INTEGER NOT NULL,
    user TEXT NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (room, user)
) WITHOUT ROWID;
