-- former: the process that had a message before, until it has handed over what it had not kept.
ALTER TABLE growing ADD COLUMN former text;

-- As before, and: the id of an ordinary message is told to be `done`.
DROP FUNCTION claim_growing;
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
        IF NOT FOUND THEN
            reason := 'done';
            length := (SELECT char_length(e.text) FROM events AS e WHERE e.room = room_id AND e.seq = message);
        END IF;
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

-- As before, and: what the log has more of is not kept, but for a message that was `cut`.
DROP FUNCTION checkpoint_growing;
CREATE FUNCTION checkpoint_growing(
    process text, lease bigint, names text[], seqs bigint[], gens bigint[], starts bigint[], lengths bigint[],
    links boolean[], cuts boolean[], texts text[]
) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    kept bigint[];
BEGIN
    PERFORM FROM growing AS g JOIN rooms AS r ON r.id = g.room JOIN unnest(names, seqs) AS new (room, seq)
        ON new.room = r.name AND new.seq = g.seq
    ORDER BY g.room, g.seq FOR UPDATE OF g;
    WITH found AS (
        SELECT g.room, g.seq, new.place, new.start, new.length, new.linked, new.text
        FROM unnest(names, seqs, gens, starts, lengths, links, cuts, texts) WITH ORDINALITY
            AS new (room, seq, gen, start, length, linked, cut, text, place)
        CROSS JOIN LATERAL (SELECT id FROM rooms WHERE name = new.room LIMIT 1) AS r
        CROSS JOIN LATERAL (
            SELECT * FROM growing WHERE room = r.id AND seq = new.seq LIMIT 1
        ) AS g
        WHERE g.gen = new.gen AND g.home = process AND g.length >= new.start
            AND (new.cut OR g.length <= new.start + new.length)
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
