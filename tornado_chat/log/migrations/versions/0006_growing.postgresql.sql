-- Messages that grow. The event of one has "on" true, and no target while it grows; then the seq of its `finished`, which
-- has the whole text. Of a `finished`, emoji is the reason and reply_to the length in code points.
-- A row is here until then. gen: how often its text was begun, by take_over. replica: of several authors with one user,
-- the one that holds it. home: the process that has it. linked: whether its author was connected there. lapses: when
-- anybody may finish it, in ms since 1970. length: that of the parts. stopped: who asked to stop it.
CREATE TABLE growing (
    room bigint NOT NULL,
    seq bigint NOT NULL,
    gen bigint NOT NULL,
    replica text,
    home text NOT NULL,
    linked boolean NOT NULL,
    lapses bigint NOT NULL,
    length bigint NOT NULL,
    stopped text,
    PRIMARY KEY (room, seq)
);
CREATE INDEX growing_homes ON growing (home);
CREATE INDEX growing_lapses ON growing (lapses);

-- The text of each, a checkpoint at a time; start: of its first code point.
CREATE TABLE growing_parts (
    room bigint NOT NULL,
    seq bigint NOT NULL,
    start bigint NOT NULL,
    text text NOT NULL,
    PRIMARY KEY (room, seq, start)
);

-- The clock that leases are counted by, in ms since 1970.
CREATE FUNCTION clock_ms() RETURNS bigint LANGUAGE sql AS $$
SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint
$$;

CREATE FUNCTION text_of_growing(room_id bigint, message bigint) RETURNS text LANGUAGE sql STABLE AS $$
SELECT coalesce(string_agg(p.text, '' ORDER BY p.start), '') FROM growing_parts AS p
WHERE p.room = room_id AND p.seq = message
$$;

-- The message `message` of the room `room_name`, which the caller has locked, grows from now on; or it goes on, for
-- `holder`, if that may have it. `refused`: it may not, for its holder is there. As `Claim` in log/growing.py says.
CREATE FUNCTION claim_growing(
    room_name text, message bigint, is_new boolean, holder text, process text, takes_over boolean, lease bigint,
    OUT gen bigint, OUT length bigint, OUT text text, OUT held boolean, OUT reason text, OUT refused boolean
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    room_id bigint := (SELECT r.id FROM rooms AS r WHERE r.name = room_name);
    row_found growing;
BEGIN
    text := '';
    held := false;
    refused := false;
    IF is_new THEN
        gen := 1;
        length := 0;
        INSERT INTO growing (room, seq, gen, replica, home, linked, lapses, length)
        VALUES (room_id, message, 1, holder, process, true, clock_ms() + lease, 0);
        RETURN;
    END IF;
    SELECT * INTO row_found FROM growing AS g WHERE g.room = room_id AND g.seq = message FOR UPDATE;
    IF NOT FOUND THEN
        SELECT f.emoji, f.reply_to INTO reason, length
        FROM events AS e JOIN events AS f ON f.room = e.room AND f.seq = e.target AND f.type = 'finished'
        WHERE e.room = room_id AND e.seq = message AND e.type = 'message';
        gen := 0;
        length := coalesce(length, 0);
        RETURN;
    END IF;
    gen := row_found.gen;
    length := row_found.length;
    IF row_found.replica <> holder THEN
        IF NOT takes_over THEN
            held := true;
            RETURN;
        END IF;
        IF row_found.linked AND row_found.lapses > clock_ms() THEN
            refused := true;
            RETURN;
        END IF;
        gen := gen + 1;
        length := 0;
        DELETE FROM growing_parts AS p WHERE p.room = room_id AND p.seq = message;
    ELSE
        text := text_of_growing(room_id, message);
    END IF;
    UPDATE growing AS g SET
        gen = claim_growing.gen, replica = coalesce(holder, g.replica), home = process, linked = true,
        lapses = clock_ms() + lease, length = claim_growing.length
    WHERE g.room = room_id AND g.seq = message;
END
$$;

-- Whether a `finished` of the user under this key may end the message `message`; the room is locked by the caller.
-- `seq` and `ts`: it is there already. `author`: NULL, there is no message that grew; `gen` NULL: it has ended.
CREATE FUNCTION finishable(
    room_name text, message bigint, who text, its_key text,
    OUT seq bigint, OUT ts bigint,
    OUT author text, OUT gen bigint, OUT length bigint, OUT home text, OUT lapsed boolean, OUT reason text
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    room_id bigint := (SELECT r.id FROM rooms AS r WHERE r.name = room_name);
BEGIN
    SELECT e.seq, e.ts INTO seq, ts FROM events AS e WHERE e.key = its_key AND e.room = room_id AND e."user" = who;
    IF NOT FOUND THEN
        PERFORM FROM growing AS g WHERE g.room = room_id AND g.seq = message FOR UPDATE;
        SELECT e."user", g.gen, g.length, g.home, g.lapses <= clock_ms(), f.emoji
        INTO author, gen, length, home, lapsed, reason
        FROM events AS e LEFT JOIN growing AS g ON g.room = e.room AND g.seq = e.seq
        LEFT JOIN events AS f ON f.room = e.room AND f.seq = e.target
        WHERE e.room = room_id AND e.seq = message AND e.type = 'message' AND e."on";
    END IF;
END
$$;

-- Keeps what came of the messages that the process has, whose columns are as in `Checkpoint` in log/growing.py; answers
-- with the places, from 1, of those that it has. The rows are locked in one order everywhere.
CREATE FUNCTION checkpoint_growing(
    process text, lease bigint, names text[], seqs bigint[], gens bigint[], starts bigint[], lengths bigint[],
    links boolean[], texts text[]
) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    kept bigint[];
BEGIN
    PERFORM FROM growing AS g JOIN rooms AS r ON r.id = g.room JOIN unnest(names, seqs) AS new (room, seq)
        ON new.room = r.name AND new.seq = g.seq
    ORDER BY g.room, g.seq FOR UPDATE OF g;
    WITH found AS (
        SELECT g.room, g.seq, new.place, new.start, new.length, new.linked, new.text
        FROM unnest(names, seqs, gens, starts, lengths, links, texts) WITH ORDINALITY
            AS new (room, seq, gen, start, length, linked, text, place)
        CROSS JOIN LATERAL (SELECT id FROM rooms WHERE name = new.room LIMIT 1) AS r
        CROSS JOIN LATERAL (
            SELECT * FROM growing WHERE room = r.id AND seq = new.seq LIMIT 1
        ) AS g
        WHERE g.gen = new.gen AND g.home = process AND g.length >= new.start
    ), renewed AS (
        UPDATE growing AS g SET
            length = found.start + found.length,
            linked = found.linked,
            lapses = CASE WHEN found.linked AND g.stopped IS NULL THEN clock_ms() + lease ELSE g.lapses END
        FROM found WHERE g.room = found.room AND g.seq = found.seq
    ), gone AS (
        DELETE FROM growing_parts AS p USING found
        WHERE p.room = found.room AND p.seq = found.seq AND p.start > found.start
    ), parts AS (
        INSERT INTO growing_parts (room, seq, start, text)
        SELECT room, seq, start, text FROM found WHERE length > 0
        ON CONFLICT (room, seq, start) DO UPDATE SET text = excluded.text
    )
    SELECT array_agg(place) INTO kept FROM found;
    RETURN coalesce(kept, '{}');
END
$$;

-- As before, and: a message that grows is neither edited nor deleted (`target_type` is `growing`); with one that grew its
-- `finished` is erased. A `finished` comes here when `finishable` has let it.
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
            SELECT
                CASE
                    WHEN e."on" AND e.target IS NULL AND e.type = 'message' AND new.type IN ('edited', 'deleted')
                    THEN 'growing' ELSE e.type
                END,
                e."user", e.text IS NULL
            INTO target_type, target_user, target_erased
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
                UPDATE events AS e SET text = NULL, meta = NULL
                WHERE e.room = room_id AND e.seq IN (
                    new.target, (SELECT m.target FROM events AS m WHERE m.room = room_id AND m.seq = new.target)
                );
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
            WHEN 'finished' THEN
                UPDATE events AS e SET target = append_entries.seq WHERE e.room = room_id AND e.seq = new.target;
                DELETE FROM growing AS g WHERE g.room = room_id AND g.seq = new.target;
                DELETE FROM growing_parts AS p WHERE p.room = room_id AND p.seq = new.target;
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
