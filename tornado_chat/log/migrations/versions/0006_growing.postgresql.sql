-- Messages that grow. The event of one has "on" true, and no target while it grows; then the seq of its `finished`, which
-- has the whole text. Of a `finished`, emoji is the reason and reply_to the length in code points.
-- A row is here until then. gen: how often its text was begun, by take_over. replica: of several authors with one user,
-- the one that holds it. home: the process that has it. linked: whether its author was connected there. lapses: when
-- anybody may finish it, in ms since 1970. length: that of the parts. stopped: who asked to stop it. former: the process
-- that had it before, until it has handed over what it had not kept.
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
    former text,
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
        lapses = clock_ms() + lease, length = claim_growing.length,
        former = CASE WHEN g.gen < claim_growing.gen THEN NULL WHEN g.home = process THEN g.former ELSE g.home END
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
            lapses = CASE WHEN (g.linked OR found.linked) AND g.stopped IS NULL THEN clock_ms() + lease ELSE g.lapses END
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
DROP FUNCTION add_entries;
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
    lapses bigint[],
    lapse bigint,
    mores text[],
    owns integer[],
    abouts integer[],
    levels text[],
    along_mores text[],
    naming integer[],
    named integer[]
) RETURNS TABLE (
    seq bigint,
    ts bigint,
    n bigint,
    duplicate boolean,
    changed boolean,
    refused boolean,
    target_type text,
    target_user text,
    target_erased boolean,
    following bigint,
    invited bigint,
    along_seqs bigint[],
    along_stamps bigint[]
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
    ids bigint[];
    bases bigint[];
    own_id bigint;
    about_id bigint;
    own_level text;
    own_inviter text;
    inviting text;
    mention integer := 1;
    -- As log/own.py has them.
    events_limit CONSTANT integer := 1000;
    mentions_limit CONSTANT integer := 1000;
    mentions_look CONSTANT integer := 64;
    follows_limit CONSTANT integer := 1000;
    invitations_limit CONSTANT integer := 100;
    touched integer;
BEGIN
    SELECT * INTO rooms_locked FROM lock_rooms(names);
    ids := rooms_locked.ids;
    heads := rooms_locked.heads;
    bases := heads;
    messages := rooms_locked.messages;
    counts := rooms_locked.counts;
    stamps := rooms_locked.stamps;
    FOR new IN
        SELECT * FROM unnest(
            places, types, users, user_names, keys, hidden, texts, replies, metas, targets, emojis, ons, marks,
            lapses, mores, owns, abouts, levels, along_mores
        ) WITH ORDINALITY AS e (
            place, type, "user", name, key, hidden, text, reply_to, meta, target, emoji, "on", mark, lapses, more, own,
            about, level, along_more, ordinal
        )
    LOOP
        room_id := ids[new.place];
        n := NULL;
        duplicate := false;
        changed := true;
        refused := false;
        target_type := NULL;
        target_user := NULL;
        target_erased := NULL;
        following := NULL;
        invited := NULL;
        along_seqs := NULL;
        along_stamps := NULL;

        IF new.type = 'read' THEN
            seq := mark_of(room_id, new."user");
            ts := now;
            asked := least(new.mark, heads[new.place]);
            changed := asked > seq;
            IF changed THEN
                seq := asked;
                INSERT INTO marks (room, "user", seq, lapses) VALUES (room_id, new."user", asked, new.lapses)
                ON CONFLICT (room, "user") DO UPDATE SET seq = excluded.seq, lapses = excluded.lapses;
                own_id := ids[new.own];
                DELETE FROM mentions AS m WHERE m.own = own_id AND m.room = room_id AND m.target <= asked;
                heads[new.own] := heads[new.own] + 1;
                stamps[new.own] := greatest(stamps[new.own], now);
                INSERT INTO events (room, seq, type, "user", name, key, hidden, target, previous_message, more, ts)
                VALUES (
                    own_id, heads[new.own], 'marked', new."user", new.name, '@' || heads[new.own], true, asked, 0,
                    new.along_more, stamps[new.own]
                );
                along_seqs := ARRAY[heads[new.own]];
                along_stamps := ARRAY[stamps[new.own]];
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

        IF new.about IS NOT NULL THEN
            about_id := ids[new.about];
            SELECT f.level, f.inviter INTO own_level, own_inviter
            FROM follows AS f WHERE f.own = room_id AND f.room = about_id;
            IF new.type = 'unfollowed' THEN
                changed := FOUND;
                DELETE FROM follows AS f WHERE f.own = room_id AND f.room = about_id;
            ELSE
                inviting := CASE WHEN names[new.place] <> '~' || new."user" THEN new."user" END;
                IF FOUND THEN
                    changed := inviting IS NULL AND (own_level <> new.level OR own_inviter IS NOT NULL);
                ELSE
                    SELECT count(*), count(f.inviter) INTO following, invited FROM follows AS f WHERE f.own = room_id;
                    refused := following >= follows_limit OR (inviting IS NOT NULL AND invited >= invitations_limit);
                    IF refused THEN
                        RETURN NEXT;
                        CONTINUE;
                    END IF;
                END IF;
                IF changed THEN
                    INSERT INTO follows (own, room, level, inviter) VALUES (room_id, about_id, new.level, inviting)
                    ON CONFLICT (own, room) DO UPDATE SET level = excluded.level, inviter = excluded.inviter;
                END IF;
            END IF;
            seq := 0;
            ts := now;
            IF changed THEN
                seq := heads[new.place] + 1;
                ts := greatest(stamps[new.place], now);
                heads[new.place] := seq;
                stamps[new.place] := ts;
                INSERT INTO events (room, seq, type, "user", name, key, hidden, previous_message, more, ts)
                VALUES (room_id, seq, new.type, new."user", new.name, new.key, true, 0, new.more, ts);
            END IF;
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
        IF new.type = 'message' THEN
            n := seq - counts[new.place];
        ELSE
            counts[new.place] := counts[new.place] + 1;
            other_rooms := other_rooms || room_id;
            other_seqs := other_seqs || seq;
            other_numbers := other_numbers || counts[new.place];
        END IF;
        INSERT INTO events (
            room, seq, type, "user", name, key, hidden, text, reply_to, meta, target, emoji, "on", previous_message, more, ts
        ) VALUES (
            room_id, seq, new.type, new."user", new.name, new.key, new.hidden, new.text, new.reply_to, new.meta,
            new.target, new.emoji, new."on", CASE WHEN new.type <> 'message' THEN messages[new.place] END,
            new.more, ts
        );
        CASE new.type
            WHEN 'message' THEN
                messages[new.place] := seq;
                WHILE naming[mention] < new.ordinal LOOP
                    mention := mention + 1;  -- of a message that was there already
                END LOOP;
                WHILE naming[mention] = new.ordinal LOOP
                    touched := named[mention];
                    mention := mention + 1;
                    own_id := ids[touched];
                    heads[touched] := heads[touched] + 1;
                    stamps[touched] := greatest(stamps[touched], now);
                    INSERT INTO events (room, seq, type, "user", name, key, hidden, target, previous_message, more, ts)
                    VALUES (
                        own_id, heads[touched], 'mentioned', new."user", new.name, '@' || heads[touched], true, seq, 0,
                        new.along_more, stamps[touched]
                    );
                    INSERT INTO mentions (own, room, target, seq) VALUES (own_id, room_id, seq, heads[touched])
                    ON CONFLICT DO NOTHING;
                    IF heads[touched] % mentions_look = 0 THEN
                        DELETE FROM mentions AS m WHERE m.own = own_id AND m.seq <= (
                            SELECT l.seq FROM mentions AS l WHERE l.own = own_id
                            ORDER BY l.seq DESC LIMIT 1 OFFSET mentions_limit
                        );
                    END IF;
                    along_seqs := along_seqs || heads[touched];
                    along_stamps := along_stamps || stamps[touched];
                END LOOP;
            WHEN 'edited' THEN
                INSERT INTO amendments (room, target, text, edited) VALUES (room_id, new.target, new.text, ts)
                ON CONFLICT (room, target) DO UPDATE SET text = excluded.text, edited = excluded.edited;
            WHEN 'deleted' THEN
                UPDATE events AS e SET text = NULL, meta = NULL, more = NULL
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
                UPDATE events AS e SET target = add_entries.seq WHERE e.room = room_id AND e.seq = new.target;
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
    IF other_seqs IS NOT NULL THEN
        INSERT INTO others (room, seq, number) SELECT * FROM unnest(other_rooms, other_seqs, other_numbers);
    END IF;
    FOR touched IN SELECT place FROM generate_subscripts(heads, 1) AS place WHERE heads[place] > bases[place] LOOP
        IF left(names[touched], 1) <> '~' THEN
            PERFORM settle(ids[touched], bases[touched], heads[touched], lapse);
        ELSIF heads[touched] > events_limit THEN
            DELETE FROM events AS e WHERE e.room = ids[touched] AND e.seq <= heads[touched] - events_limit;
        END IF;
    END LOOP;
END
$$;
