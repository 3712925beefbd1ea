-- What few events have, a JSON object: `mentions` (the users that a message names), `about`, `level` (in logs of one's
-- own, which are the rooms ~USER; there a prefix of the events is gone, and what is above it has no holes).
-- "on" of a message: false where it does not move its sender's mark.
ALTER TABLE events ADD COLUMN more text;

-- The messages of a room up to `seq` have moved their senders' marks in `marks`. Those after it count, too: whoever asks
-- for a mark looks at them.
CREATE TABLE settled (
    room bigint PRIMARY KEY,
    seq bigint NOT NULL
);
INSERT INTO settled (room, seq)
SELECT r.id, last.seq
FROM rooms AS r CROSS JOIN LATERAL (SELECT seq FROM events WHERE room = r.id ORDER BY seq DESC LIMIT 1) AS last;

-- The rooms that somebody follows; own: the room that is their own log. inviter: who made it so, NULL: they themselves.
CREATE TABLE follows (
    own bigint NOT NULL,
    room bigint NOT NULL,
    level text NOT NULL,
    inviter text COLLATE "C",
    PRIMARY KEY (own, room)
);

-- The messages that name somebody, those that were read before not all gone; seq: of the `mentioned` in the own log.
CREATE TABLE mentions (
    own bigint NOT NULL,
    room bigint NOT NULL,
    target bigint NOT NULL,
    seq bigint NOT NULL,
    PRIMARY KEY (own, room, target)
);

-- The mark of a user, which the messages that are not settled yet have moved, too; 0: none.
CREATE FUNCTION mark_of(room_id bigint, whose text) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT greatest(
        (SELECT m.seq FROM marks AS m WHERE m.room = room_id AND m."user" = whose),
        (
            SELECT e.seq FROM events AS e
            WHERE e.room = room_id
                AND e.seq > coalesce((SELECT s.seq FROM settled AS s WHERE s.room = room_id), 0)
                AND e."user" = whose AND e.type = 'message' AND e."on" IS NULL
            ORDER BY e.seq DESC LIMIT 1
        ),
        0
    )
$$;

-- Lets the messages of a room, whose last event is `head` and was `before`, move their senders' marks in `marks`; once for
-- each 512 events, not at the same seq in all rooms. A guest's mark lapses; one that there is does so when it did.
CREATE FUNCTION settle(room_id bigint, before bigint, head bigint, lapse bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF (before + room_id % 512) / 512 = (head + room_id % 512) / 512 THEN
        RETURN;
    END IF;
    INSERT INTO marks (room, "user", seq, lapses)
    SELECT room_id, e."user", max(e.seq), CASE WHEN e."user" >= 'guest-' AND e."user" < 'guest.' THEN lapse END
    FROM events AS e
    WHERE e.room = room_id AND e.seq > coalesce((SELECT s.seq FROM settled AS s WHERE s.room = room_id), 0)
        AND e.seq <= head AND e.type = 'message' AND e."on" IS NULL
    GROUP BY e."user"
    ON CONFLICT (room, "user") DO UPDATE SET seq = greatest(marks.seq, excluded.seq);
    INSERT INTO settled (room, seq) VALUES (room_id, head)
    ON CONFLICT (room) DO UPDATE SET seq = excluded.seq;
END
$$;

-- Appends messages whose (room, user, key) all differ. `names` are the rooms as `lock_rooms` wants them; of each
-- message, `places` is its room's place in `names`, `ordinals` its own place among those of its room. Answers with the
-- seq that each room stood at before, how many others it has, and the ts of its new events; with NULL if one of the
-- messages is in the log already: then nothing was done. They mention nobody.
DROP FUNCTION add_messages;
CREATE FUNCTION add_messages(
    now bigint,
    lapse bigint,
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
    ons boolean[],
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
    INSERT INTO events (room, seq, type, "user", name, key, hidden, "on", text, reply_to, meta, ts)
    SELECT
        ids[new.place], bases[new.place] + new.ordinal, 'message', new."user", new.name, new.key, new.hidden, new."on",
        new.text, new.reply_to, new.meta, stamps[new.place]
    FROM unnest(places, ordinals, users, user_names, keys, hidden, ons, texts, replies, metas)
        AS new (place, ordinal, "user", name, key, hidden, "on", text, reply_to, meta);
    PERFORM settle(ids[new.place], bases[new.place], bases[new.place] + new.added, lapse)
    FROM (SELECT place, max(ordinal) AS added FROM unnest(places, ordinals) AS m (place, ordinal) GROUP BY place) AS new;
END
$$;

-- Appends entries of all types, one after the other, each seeing what the ones before it did. One row for each:
-- its seq and ts, or the first one's if `duplicate`; of a new message its `n`; of a `read`, the mark as it stands now,
-- and whether it `changed`; if `refused`, what its target is (all NULL: there is none), or how many rooms are followed,
-- and how many of them by invitation. A `followed` or `unfollowed` that changes nothing is no event.
-- In logs of one's own: `owns` are the places of the readers' own logs, `abouts` those of rooms that an entry is about.
-- The messages `naming` (by their places among the entries, ascending) mention the users whose logs are at `named`;
-- `along_seqs` and `along_stamps` answer with what was added there by an entry. `along_mores` is the `more` of that.
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
                WHERE e.room = room_id AND e.seq = new.target;
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
    FOR touched IN SELECT place FROM generate_subscripts(heads, 1) AS place WHERE heads[place] > bases[place] LOOP
        IF left(names[touched], 1) <> '~' THEN
            PERFORM settle(ids[touched], bases[touched], heads[touched], lapse);
        ELSIF heads[touched] > events_limit THEN
            DELETE FROM events AS e WHERE e.room = ids[touched] AND e.seq <= heads[touched] - events_limit;
        END IF;
    END LOOP;
END
$$;
