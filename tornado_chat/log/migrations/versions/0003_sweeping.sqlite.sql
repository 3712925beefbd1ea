-- Deleted messages whose edits still have their texts in `events`, behind the edit `seq`. Readers see none of them.
CREATE TABLE erasures (
    room INTEGER NOT NULL,
    target INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (room, target)
) WITHOUT ROWID;

-- When a guest's mark goes, in Unix seconds; NULL: never. 31 days from now for those that guests have.
ALTER TABLE marks ADD COLUMN lapses INTEGER;
UPDATE marks SET lapses = CAST(strftime('%s', 'now') AS INTEGER) + 2678400 WHERE user >= 'guest-' AND user < 'guest.';
CREATE INDEX lapsing ON marks (lapses) WHERE lapses IS NOT NULL;

-- Sessions that may not come in any more, for ever: no clock decides when one may come back.
-- AUTOINCREMENT: an id is never given twice, so that whoever has read up to one has missed none.
CREATE TABLE revoked (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    jti TEXT NOT NULL UNIQUE
);
INSERT INTO revoked (id, jti) SELECT max(id), jti FROM revocations GROUP BY jti;
DROP TABLE revocations;
ALTER TABLE revoked RENAME TO revocations;
