-- Sessions that may not come in any more; expires_at: Unix seconds, NULL: for ever.
-- AUTOINCREMENT: an id is never given twice, so that whoever has read up to one has missed none.
CREATE TABLE revocations (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    jti TEXT NOT NULL,
    expires_at REAL
);

-- Versions that know nothing of `alembic_version` look here, and refuse what is greater than 1.
PRAGMA user_version = 2;
