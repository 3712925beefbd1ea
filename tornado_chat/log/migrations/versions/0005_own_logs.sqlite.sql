-- What few events have, a JSON object: `mentions` (the users that a message names), `about`, `level` (in logs of one's
-- own, which are the rooms ~USER; there a prefix of the events is gone, and what is above it has no holes).
-- "on" of a message: 0 where it does not move its sender's mark.
ALTER TABLE events ADD COLUMN more TEXT;

-- The messages of a room up to `seq` have moved their senders' marks in `marks`. Those after it count, too: whoever asks
-- for a mark looks at them.
CREATE TABLE settled (
    room INTEGER PRIMARY KEY,
    seq INTEGER NOT NULL
);
INSERT INTO settled (room, seq)
SELECT id, head FROM (SELECT id, (SELECT max(seq) FROM events WHERE room = rooms.id) AS head FROM rooms)
WHERE head IS NOT NULL;

-- The rooms that somebody follows; own: the room that is their own log. inviter: who made it so, NULL: they themselves.
CREATE TABLE follows (
    own INTEGER NOT NULL,
    room INTEGER NOT NULL,
    level TEXT NOT NULL,
    inviter TEXT,
    PRIMARY KEY (own, room)
) WITHOUT ROWID;

-- The messages that name somebody, those that were read before not all gone; seq: of the `mentioned` in the own log.
CREATE TABLE mentions (
    own INTEGER NOT NULL,
    room INTEGER NOT NULL,
    target INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (own, room, target)
) WITHOUT ROWID;
