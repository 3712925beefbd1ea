-- Endpoints that are told of events. rooms: patterns, events: types, both JSON arrays. former_secret: signs too until
-- former_until. state: making, active, given up, removing. failing: since when all that was sent was refused, error: what
-- the last refusal said. holder: the process that delivers until `lapses`; fence: how often that has changed. All times
-- are in ms since 1970.
CREATE TABLE webhooks (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    url text NOT NULL,
    rooms text NOT NULL,
    events text NOT NULL,
    secret text NOT NULL,
    former_secret text,
    former_until bigint,
    created bigint NOT NULL,
    state text NOT NULL,
    failing bigint,
    error text,
    holder text,
    fence bigint NOT NULL,
    lapses bigint NOT NULL
);

-- Up to which seq an endpoint was told of a room; none: of nothing yet. failing: since when the next event is refused,
-- attempts: how often it was, retry_at: when it is tried again. given_up: when that was given up.
CREATE TABLE webhook_rooms (
    webhook bigint NOT NULL,
    room bigint NOT NULL,
    seq bigint NOT NULL,
    failing bigint,
    attempts bigint NOT NULL,
    retry_at bigint NOT NULL,
    given_up bigint,
    PRIMARY KEY (webhook, room)
);

CREATE INDEX webhook_rooms_given_up ON webhook_rooms (webhook) WHERE given_up IS NOT NULL;
