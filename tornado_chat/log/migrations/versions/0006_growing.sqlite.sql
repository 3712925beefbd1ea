-- Messages that grow. The event of one has "on" = 1, and no target while it grows; then the seq of its `finished`, which
-- has the whole text. Of a `finished`, emoji is the reason and reply_to the length in code points.
-- A row is here until then. gen: how often its text was begun, by take_over. replica: of several authors with one user,
-- the one that holds it. home: the process that has it. linked: whether its author was connected there. lapses: when
-- anybody may finish it, in ms since 1970. length: that of the parts. stopped: who asked to stop it. former: the process
-- that had it before, until it has handed over what it had not kept.
CREATE TABLE growing (
    room INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    gen INTEGER NOT NULL,
    replica TEXT,
    home TEXT NOT NULL,
    linked INTEGER NOT NULL,
    lapses INTEGER NOT NULL,
    length INTEGER NOT NULL,
    stopped TEXT,
    former TEXT,
    PRIMARY KEY (room, seq)
) WITHOUT ROWID;

-- The text of each, a checkpoint at a time; start: of its first code point.
CREATE TABLE growing_parts (
    room INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    start INTEGER NOT NULL,
    text TEXT NOT NULL,
    PRIMARY KEY (room, seq, start)
) WITHOUT ROWID;
