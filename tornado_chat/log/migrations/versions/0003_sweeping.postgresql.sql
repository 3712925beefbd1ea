-- Deleted messages whose edits still have their texts in `events`, behind the edit `seq`. Readers see none of them.
CREATE TABLE erasures (
    room bigint NOT NULL,
    target bigint NOT NULL,
    seq bigint NOT NULL,
    PRIMARY KEY (room, target)
);

-- With the seq, so that a slice of the edits of one message is found where the last one ended.
DROP INDEX edits;
CREATE INDEX edits ON events (room, target, seq) WHERE type = 'edited';

-- When a guest's mark goes, in Unix seconds; NULL: never. 31 days from now for those that guests have.
ALTER TABLE marks ADD COLUMN lapses bigint;
UPDATE marks SET lapses = extract(epoch FROM now())::bigint + 2678400 WHERE "user" >= 'guest-' AND "user" < 'guest.';
CREATE INDEX lapsing ON marks (lapses) WHERE lapses IS NOT NULL;

-- Sessions that may not come in any more, for ever: no clock decides when one may come back.
DROP FUNCTION revoke_session;
ALTER TABLE revocations DROP COLUMN expires_at;
ALTER TABLE revocations ADD UNIQUE (jti);

-- One at a time: the ids ascend in the order of the commits, so that whoever has read up to one has missed none.
CREATE FUNCTION revoke_session(session text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    LOCK TABLE revocations IN SHARE ROW EXCLUSIVE MODE;
    INSERT INTO revocations (jti) SELECT session WHERE NOT EXISTS (SELECT FROM revocations WHERE jti = session);
END
$$;

-- Erases the texts of the first `count` edits of a message behind the edit `after`; answers with their seqs.
CREATE FUNCTION erase_edits(room_id bigint, message bigint, after bigint, count integer) RETURNS bigint[]
LANGUAGE plpgsql AS $$
DECLARE
    seqs bigint[];
BEGIN
    seqs := ARRAY(
        SELECT seq FROM events WHERE room = room_id AND target = message AND type = 'edited' AND seq > after
        ORDER BY seq LIMIT count
    );
    UPDATE events SET text = NULL WHERE room = room_id AND seq = ANY (seqs);
    RETURN seqs;
END
$$;

-- Does a slice of what no client waits for: renews the marks of `users` in the rooms `names`, which are found by place,
-- erases edits of a deleted message, deletes marks that have lapsed; of either so many as the parameters say at most.
-- True if there is more to do. What another call has locked at the moment is left to that one.
CREATE FUNCTION sweep(
    now bigint, renewed bigint, names text[], users text[], edits integer, lapsed integer
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    deleted erasures;
    erased bigint[];
    gone bigint;
    more boolean := false;
BEGIN
    UPDATE marks SET lapses = renewed FROM (
        SELECT m.room, m."user" FROM unnest(names, users) AS wanted (room, "user")
        CROSS JOIN LATERAL (SELECT id FROM rooms WHERE name = wanted.room LIMIT 1) AS r
        JOIN marks AS m ON m.room = r.id AND m."user" = wanted."user" AND m.lapses IS NOT NULL
        FOR UPDATE OF m SKIP LOCKED
    ) AS found WHERE marks.room = found.room AND marks."user" = found."user";

    SELECT * INTO deleted FROM erasures ORDER BY room, target LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF FOUND THEN
        erased := erase_edits(deleted.room, deleted.target, deleted.seq, edits);
        IF cardinality(erased) < edits THEN
            DELETE FROM erasures WHERE room = deleted.room AND target = deleted.target;
        ELSE
            UPDATE erasures SET seq = erased[edits] WHERE room = deleted.room AND target = deleted.target;
        END IF;
        more := true;
    END IF;

    DELETE FROM marks USING (
        SELECT room, "user" FROM marks WHERE lapses <= now ORDER BY lapses LIMIT lapsed FOR UPDATE SKIP LOCKED
    ) AS old WHERE marks.room = old.room AND marks."user" = old."user";
    GET DIAGNOSTICS gone = ROW_COUNT;
    RETURN more OR gone = lapsed;
END
$$;

-- As before, and: `lapses` goes into the marks; 64 edits of deleted messages are erased at once, the others in slices.
DROP FUNCTION append_entries;
CREATE FUNCTION append_entries(
    now bigint,
    names text[],
    places integer[],
    types text[],
    users text[],
    user_names text[],
    keys text[],
    hidden boolean[],
    texts text[],
    replies bigint[],
    metas text[],
    targets bigint[],
    emojis text[],
    ons boolean[],
    marks bigint[],
    lapses bigint[]
) RETURNS TABLE (
    seq bigint,
    ts bigint,
    duplicate boolean,
    changed boolean,
    refused boolean,
    target_type text,
    target_user text,
    target_erased boolean
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    rooms_locked record;
    heads bigint[];
    messages bigint[];
    stamps bigint[];
    room_id bigint;
    asked bigint;
    new record;
    erasable integer := 64;
    erased bigint[];
BEGIN
    SELECT * INTO rooms_locked FROM lock_rooms(names);
    heads := rooms_locked.heads;
    messages := rooms_locked.messages;
    stamps := rooms_locked.stamps;
    FOR new IN
        SELECT * FROM unnest(
            places, types, users, user_names, keys, hidden, texts, replies, metas, targets, emojis, ons, marks,
            lapses
        ) AS e (place, type, "user", name, key, hidden, text, reply_to, meta, target, emoji, "on", mark, lapses)
    LOOP
        room_id := rooms_locked.ids[new.place];
        duplicate := false;
        changed := true;
        refused := false;
        target_type := NULL;
        target_user := NULL;
        target_erased := NULL;

        IF new.type = 'read' THEN
            SELECT m.seq INTO seq FROM marks AS m WHERE m.room = room_id AND m."user" = new."user";
            seq := coalesce(seq, 0);
            ts := now;
            asked := least(new.mark, heads[new.place]);
            changed := asked > seq;
            IF changed THEN
                seq := asked;
                INSERT INTO marks (room, "user", seq, lapses) VALUES (room_id, new."user", asked, new.lapses)
                ON CONFLICT (room, "user") DO UPDATE SET seq = excluded.seq, lapses = excluded.lapses;
            END IF;
            RETURN NEXT;
            CONTINUE;
        END IF;

        SELECT e.seq, e.ts INTO seq, ts
        FROM events AS e WHERE e.key = new.key AND e.room = room_id AND e."user" = new."user";
        IF FOUND THEN
            duplicate := true;
            RETURN NEXT;
            CONTINUE;
        END IF;

        IF new.type <> 'message' THEN
            SELECT e.type, e."user", e.text IS NULL INTO target_type, target_user, target_erased
            FROM events AS e WHERE e.room = room_id AND e.seq = new.target;
            refused := NOT FOUND OR target_type <> 'message' OR target_erased
                OR (new.type <> 'reacted' AND target_user <> new."user");
            IF refused THEN
                RETURN NEXT;
                CONTINUE;
            END IF;
        END IF;

        seq := heads[new.place] + 1;
        ts := greatest(stamps[new.place], now);
        heads[new.place] := seq;
        stamps[new.place] := ts;
        INSERT INTO events (
            room, seq, type, "user", name, key, hidden, text, reply_to, meta, target, emoji, "on", last_message, ts
        ) VALUES (
            room_id, seq, new.type, new."user", new.name, new.key, new.hidden, new.text, new.reply_to, new.meta,
            new.target, new.emoji, new."on", CASE WHEN new.type <> 'message' THEN messages[new.place] END, ts
        );
        CASE new.type
            WHEN 'message' THEN
                messages[new.place] := seq;
            WHEN 'edited' THEN
                INSERT INTO amendments (room, target, text, edited) VALUES (room_id, new.target, new.text, ts)
                ON CONFLICT (room, target) DO UPDATE SET text = excluded.text, edited = excluded.edited;
            WHEN 'deleted' THEN
                UPDATE events AS e SET text = NULL, meta = NULL WHERE e.room = room_id AND e.seq = new.target;
                UPDATE amendments AS a SET text = NULL WHERE a.room = room_id AND a.target = new.target;
                IF FOUND THEN
                    erased := erase_edits(room_id, new.target, 0, erasable);
                    erasable := erasable - cardinality(erased);
                    IF erasable = 0 THEN
                        INSERT INTO erasures (room, target, seq)
                        VALUES (room_id, new.target, coalesce(erased[cardinality(erased)], 0));
                    END IF;
                END IF;
                DELETE FROM reactions AS r WHERE r.room = room_id AND r.target = new.target;
            WHEN 'reacted' THEN
                IF new."on" THEN
                    INSERT INTO reactions (room, target, emoji, "user")
                    VALUES (room_id, new.target, new.emoji, new."user")
                    ON CONFLICT DO NOTHING;
                ELSE
                    DELETE FROM reactions AS r WHERE r.room = room_id AND r.target = new.target
                        AND r.emoji = new.emoji AND r."user" = new."user";
                END IF;
        END CASE;
        RETURN NEXT;
    END LOOP;
END
$$;
