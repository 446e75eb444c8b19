-- Who reads the event log and how far they have come, what others append to it, and what is no longer
-- kept of it.

-- Below this offset nothing is kept of a shard, whatever is still in a partition: offsets of a
-- transaction that goes on over midnight may lie in the day before that of lower ones.
ALTER TABLE core.shard_head
    ADD COLUMN first_offset bigint NOT NULL DEFAULT 1 CHECK (first_offset > 0),
    -- The head when the database was last found to have been restored.
    ADD COLUMN restored_offset bigint NOT NULL DEFAULT 0 CHECK (restored_offset >= 0);

-- Who reads the log: it is kept until all of them have applied it.
CREATE TABLE core.subscriber (
    name          text PRIMARY KEY,
    -- The log's generation that it has confirmed to read; see docs/event-log.md.
    generation    bigint NOT NULL,
    registered_at timestamptz NOT NULL DEFAULT now(),
    seen_at       timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE core.subscriber_checkpoint (
    name       text NOT NULL REFERENCES core.subscriber ON DELETE CASCADE,
    shard      integer NOT NULL,
    applied    bigint NOT NULL CHECK (applied >= 0),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, shard)
) WITH (fillfactor = 70);

-- How many of the facts that other services find are in the log.
CREATE TABLE core.event_source (
    source   text PRIMARY KEY,
    appended bigint NOT NULL CHECK (appended >= 0)
);

-- What was counted of sessions that are kept no longer, by connection.
CREATE TABLE core.session_archive (
    connection uuid PRIMARY KEY,
    workspace  text NOT NULL,
    -- Frames that had their effect.
    seen       bigint NOT NULL CHECK (seen >= 0),
    -- Frames that newer ones replaced at their source.
    conflated  bigint NOT NULL CHECK (conflated >= 0),
    -- The sum of the highest numbers: what was sent, as far as it is known.
    numbered   bigint NOT NULL CHECK (numbered >= 0)
);

-- As before, but a partition is made beside the log and then attached to it, which waits for nobody: not
-- for the writers, and not for a dump.
CREATE OR REPLACE FUNCTION core.make_event_log_partitions(first date, days integer) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    day  date;
    name text;
BEGIN
    -- One at a time: a partition that somebody else is making is not there yet.
    PERFORM pg_advisory_xact_lock(hashtext('core.make_event_log_partitions'));
    FOR day IN SELECT first + n FROM generate_series(0, days - 1) AS n LOOP
        name := 'event_log_' || to_char(day, 'YYYYMMDD');
        IF to_regclass('core.' || name) IS NULL THEN
            EXECUTE format(
                'CREATE TABLE core.%I (LIKE core.event_log INCLUDING DEFAULTS INCLUDING INDEXES)', name);
            EXECUTE format(
                'ALTER TABLE core.event_log ATTACH PARTITION core.%I FOR VALUES FROM (%L) TO (%L)',
                name, day || ' 00:00:00+00', (day + 1) || ' 00:00:00+00');
        END IF;
    END LOOP;
END
$$;

-- Drops a day of the log, and notes that what it held is kept no longer; whether there was one. The
-- caller holds all shard heads and then the log, and has seen that everybody has read it.
CREATE FUNCTION core.drop_event_log_partition(day date) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    name text := 'event_log_' || to_char(day, 'YYYYMMDD');
BEGIN
    IF to_regclass('core.' || name) IS NULL THEN
        RETURN false;
    END IF;
    EXECUTE format(
        'UPDATE core.shard_head AS head SET first_offset = gone.last_offset + 1
         FROM core.shard_head AS of,
              -- One look into the primary key for each shard: everybody waits meanwhile.
              LATERAL (SELECT log_offset AS last_offset FROM core.%I
                       WHERE shard = of.shard ORDER BY log_offset DESC LIMIT 1) AS gone
         WHERE of.shard = head.shard AND head.first_offset <= gone.last_offset', name);
    EXECUTE format('ALTER TABLE core.event_log DETACH PARTITION core.%I', name);
    EXECUTE format('DROP TABLE core.%I', name);
    RETURN true;
END
$$;
