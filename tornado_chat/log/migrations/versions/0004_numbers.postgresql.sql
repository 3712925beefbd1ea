-- The events that are no messages, counted: `number` is which of them in its room one is, 1, 2, 3 ... The messages of a
-- room up to a seq are that seq less the `number` of the last of these up to it. So a message has its own number `n`
-- without a column for it, and of a log that has only messages nothing is to be written.
CREATE TABLE others (
    room bigint NOT NULL,
    seq bigint NOT NULL,
    number bigint NOT NULL,
    PRIMARY KEY (room, seq)
);

ALTER TABLE events RENAME COLUMN last_message TO previous_message;

-- Under new names, so that a process of the version before, which would not count, cannot write any more.
DROP FUNCTION append_messages;
DROP FUNCTION append_entries;
DROP FUNCTION lock_rooms;

-- Locks the rooms `names`, which must be sorted, each once; makes those that there are not. Answers, in their order,
-- with the id of each, its last seq, the seq of its last message, how many others it has and the ts of its last event
-- (0: none).
-- They are locked in one order everywhere, and the missing ones are made before any other is locked: no two calls ever
-- wait for each other. Where they stand is a statement of its own, with a snapshot of its own: it sees what others
-- committed while the locks were waited for.
CREATE FUNCTION lock_rooms(
    names text[],
    OUT ids bigint[],
    OUT heads bigint[],
    OUT messages bigint[],
    OUT counts bigint[],
    OUT stamps bigint[]
) LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT count(*) FROM rooms WHERE name = ANY (names)) < cardinality(names) THEN
        INSERT INTO rooms (name)
        SELECT unnest(names) COLLATE "C" AS name EXCEPT SELECT name FROM rooms WHERE name = ANY (names)
        ORDER BY name
        ON CONFLICT DO NOTHING;
    END IF;
    ids := ARRAY(SELECT id FROM rooms WHERE name = ANY (names) ORDER BY name FOR NO KEY UPDATE);
    SELECT
        array_agg(coalesce(last.seq, 0) ORDER BY room.place),
        array_agg(coalesce(last.message, 0) ORDER BY room.place),
        array_agg(coalesce(other.number, 0) ORDER BY room.place),
        array_agg(coalesce(last.ts, 0) ORDER BY room.place)
    INTO heads, messages, counts, stamps
    FROM unnest(ids) WITH ORDINALITY AS room (id, place)
    LEFT JOIN LATERAL (
        SELECT e.seq, coalesce(e.previous_message, e.seq) AS message, e.ts
        FROM events AS e WHERE e.room = room.id ORDER BY e.seq DESC LIMIT 1
    ) AS last ON true
    LEFT JOIN LATERAL (
        SELECT o.number FROM others AS o WHERE o.room = room.id ORDER BY o.seq DESC LIMIT 1
    ) AS other ON true;
END
$$;

-- Appends messages whose (room, user, key) all differ. `names` are the rooms as `lock_rooms` wants them; of each
-- message, `places` is its room's place in `names`, `ordinals` its own place among those of its room. Answers with the
-- seq that each room stood at before, how many others it has, and the ts of its new events; with NULL if one of the
-- messages is in the log already: then nothing was done.
CREATE FUNCTION add_messages(
    now bigint,
    names text[],
    places integer[],
    ordinals bigint[],
    users text[],
    user_names text[],
    keys text[],
    hidden boolean[],
    texts text[],
    replies bigint[],
    metas text[],
    OUT bases bigint[],
    OUT counts bigint[],
    OUT stamps bigint[]
) LANGUAGE plpgsql AS $$
DECLARE
    rooms_locked record;
    ids bigint[];
BEGIN
    SELECT * INTO rooms_locked FROM lock_rooms(names);
    ids := rooms_locked.ids;
    PERFORM FROM unnest(keys, places, users) AS new (key, place, "user")
    CROSS JOIN LATERAL (
        SELECT FROM events AS e WHERE e.key = new.key AND e.room = ids[new.place] AND e."user" = new."user" LIMIT 1
    ) AS old
    LIMIT 1;
    IF FOUND THEN
        RETURN;
    END IF;
    bases := rooms_locked.heads;
    counts := rooms_locked.counts;
    stamps := ARRAY(SELECT greatest(stamp, now) FROM unnest(rooms_locked.stamps) AS stamp);
    INSERT INTO events (room, seq, type, "user", name, key, hidden, text, reply_to, meta, ts)
    SELECT
        ids[new.place], bases[new.place] + new.ordinal, 'message', new."user", new.name, new.key, new.hidden, new.text,
        new.reply_to, new.meta, stamps[new.place]
    FROM unnest(places, ordinals, users, user_names, keys, hidden, texts, replies, metas)
        AS new (place, ordinal, "user", name, key, hidden, text, reply_to, meta);
END
$$;

-- Appends entries of all types, one after the other, each seeing what the ones before it did. One row for each:
-- its seq and ts, or the first one's if `duplicate`; of a new message its `n`; of a `read`, the mark as it stands now,
-- and whether it `changed`; if `refused`, what its target is (all NULL: there is none).
CREATE FUNCTION add_entries(
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
    n bigint,
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
    counts bigint[];
    stamps bigint[];
    room_id bigint;
    asked bigint;
    new record;
    erasable integer := 64;
    erased bigint[];
    other_rooms bigint[];
    other_seqs bigint[];
    other_numbers bigint[];
BEGIN
    SELECT * INTO rooms_locked FROM lock_rooms(names);
    heads := rooms_locked.heads;
    messages := rooms_locked.messages;
    counts := rooms_locked.counts;
    stamps := rooms_locked.stamps;
    FOR new IN
        SELECT * FROM unnest(
            places, types, users, user_names, keys, hidden, texts, replies, metas, targets, emojis, ons, marks,
            lapses
        ) AS e (place, type, "user", name, key, hidden, text, reply_to, meta, target, emoji, "on", mark, lapses)
    LOOP
        room_id := rooms_locked.ids[new.place];
        n := NULL;
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
        IF new.type = 'message' THEN
            n := seq - counts[new.place];
        ELSE
            counts[new.place] := counts[new.place] + 1;
            other_rooms := other_rooms || room_id;
            other_seqs := other_seqs || seq;
            other_numbers := other_numbers || counts[new.place];
        END IF;
        INSERT INTO events (
            room, seq, type, "user", name, key, hidden, text, reply_to, meta, target, emoji, "on", previous_message, ts
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
    IF other_seqs IS NOT NULL THEN
        INSERT INTO others (room, seq, number) SELECT * FROM unnest(other_rooms, other_seqs, other_numbers);
    END IF;
END
$$;
