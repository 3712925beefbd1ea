-- The events that are no messages, counted: `number` is which of them in its room one is, 1, 2, 3 ... The messages of a
-- room up to a seq are that seq less the `number` of the last of these up to it. So a message has its own number `n`
-- without a column for it, and of a log that has only messages nothing is to be written.
CREATE TABLE others (
    room INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (room, seq)
) WITHOUT ROWID;

-- A new name, so that a process of the version before, which would not count, cannot write any more.
ALTER TABLE events RENAME COLUMN last_message TO previous_message;
