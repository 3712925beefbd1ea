-- Endpoints that are told of events. rooms: patterns, events: types, both JSON arrays. former_secret: signs too until
-- former_until. state: making, active, given up, removing. failing: since when all that was sent was refused, error: what
-- the last refusal said. holder: the process that delivers until `lapses`; fence: how often that has changed. All times
-- are in ms since 1970.
-- AUTOINCREMENT: an id is never given twice, so that what was told to one endpoint is not taken for what another gets.
CREATE TABLE webhooks (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    url TEXT NOT NULL,
    rooms TEXT NOT NULL,
    events TEXT NOT NULL,
    secret TEXT NOT NULL,
    former_secret TEXT,
    former_until INTEGER,
    created INTEGER NOT NULL,
    state TEXT NOT NULL,
    failing INTEGER,
    error TEXT,
    holder TEXT,
    fence INTEGER NOT NULL,
    lapses INTEGER NOT NULL
);

-- Up to which seq an endpoint was told of a room; none: of nothing yet. failing: since when the next event is refused,
-- attempts: how often it was, retry_at: when it is tried again. given_up: when that was given up.
CREATE TABLE webhook_rooms (
    webhook INTEGER NOT NULL,
    room INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    failing INTEGER,
    attempts INTEGER NOT NULL,
    retry_at INTEGER NOT NULL,
    given_up INTEGER,
    PRIMARY KEY (webhook, room)
) WITHOUT ROWID;

CREATE INDEX webhook_rooms_given_up ON webhook_rooms (webhook) WHERE given_up IS NOT NULL;
