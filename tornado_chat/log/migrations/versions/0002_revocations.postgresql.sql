-- Sessions that may not come in any more; expires_at: Unix seconds, NULL: for ever.
CREATE TABLE revocations (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    jti text COLLATE "C" NOT NULL,
    expires_at double precision
);

-- Forgets what expired, and what the new one goes beyond. One at a time: the ids ascend in the order of the commits, so
-- that whoever has read up to one has missed none.
CREATE FUNCTION revoke_session(now double precision, session text, until double precision) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    LOCK TABLE revocations IN SHARE ROW EXCLUSIVE MODE;
    DELETE FROM revocations
    WHERE expires_at <= now OR (jti = session AND (until IS NULL OR expires_at <= until));
    INSERT INTO revocations (jti, expires_at)
    SELECT session, until WHERE NOT EXISTS (SELECT FROM revocations WHERE jti = session);
END
$$;
