-- The core's tables: connections, the state of every vehicle, what was seen and what was parked, and
-- the event log with its relay's checkpoints.

-- What is fixed at the first start, such as the number of ingress partitions.
CREATE TABLE core.setting (
    key   text PRIMARY KEY,
    value bigint NOT NULL
);

CREATE TABLE core.workspace (
    workspace  text PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE core.connection (
    connection uuid PRIMARY KEY,
    workspace  text NOT NULL REFERENCES core.workspace,
    provider   text NOT NULL,
    kind       text NOT NULL CHECK (kind IN ('stream', 'poll', 'push')),
    endpoint   text NOT NULL,
    -- A reference (env:NAME, file:PATH), never the credential itself.
    credential text,
    settings   jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    -- Frames of a removed connection may still be under way, so its row stays.
    removed_at timestamptz
);

CREATE INDEX connection_of_workspace ON core.connection (workspace, connection) WHERE removed_at IS NULL;

-- The one state of every vehicle. The free space in each page keeps updates of rows that change
-- every second within their page.
CREATE TABLE core.vehicle (
    workspace        text NOT NULL,
    vehicle          text NOT NULL,
    shard            integer NOT NULL,
    -- Raised by news; orders values. Dense.
    version          bigint NOT NULL CHECK (version >= 0),
    -- Raised by every write; guards them, and orders times.
    revision         bigint NOT NULL CHECK (revision > 0),
    -- The latest reading of each signal.
    signals          jsonb NOT NULL,
    -- The values that the last event about this vehicle carried.
    published        jsonb NOT NULL,
    last_received_at timestamptz,
    -- Since when the row has held something that no event has carried.
    unsent_since     timestamptz,
    registered_at    timestamptz NOT NULL,
    registered_by    uuid NOT NULL REFERENCES core.connection,
    PRIMARY KEY (workspace, vehicle)
) WITH (fillfactor = 70);

CREATE INDEX vehicle_unsent ON core.vehicle (unsent_since) WHERE unsent_since IS NOT NULL;

-- Which frames of each session have had their effect. A session's frames are numbered for each
-- partition by itself: so a row's ranges join up, and partitions do not wait for each other.
CREATE TABLE core.session (
    session    uuid NOT NULL,
    partition  integer NOT NULL,
    workspace  text NOT NULL,
    connection uuid NOT NULL,
    seen       int8multirange NOT NULL,
    first_at   timestamptz NOT NULL,
    last_at    timestamptz NOT NULL,
    PRIMARY KEY (session, partition)
);

-- Frames that could not be interpreted, and messages that are no envelopes.
CREATE TABLE core.parked_frame (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- The same for the same frame however often it is delivered.
    identity     text NOT NULL UNIQUE,
    workspace    text,
    connection   uuid,
    provider     text,
    session      uuid,
    frame_number bigint,
    received_at  timestamptz,
    parked_at    timestamptz NOT NULL DEFAULT now(),
    reason       text NOT NULL,
    detail       text NOT NULL,
    -- Of a message that is no envelope: what else it came with.
    headers      jsonb,
    body         bytea NOT NULL
);

CREATE INDEX parked_frame_of_workspace ON core.parked_frame (workspace, id);

-- The last offset of each shard. A transaction takes its offsets from here at its end and holds the
-- row until it commits, so offsets are dense and in the order of commits.
CREATE TABLE core.shard_head (
    shard       integer PRIMARY KEY,
    last_offset bigint NOT NULL CHECK (last_offset >= 0)
);

-- The event log, which is the outbox: append-only, a partition a day.
CREATE TABLE core.event_log (
    shard       integer NOT NULL,
    log_offset  bigint NOT NULL,
    logged_at   timestamptz NOT NULL DEFAULT now(),
    workspace   text NOT NULL,
    event_type  text NOT NULL,
    subject     text,
    traceparent text,
    data        jsonb NOT NULL,
    PRIMARY KEY (shard, log_offset, logged_at)
) PARTITION BY RANGE (logged_at);

-- Makes the partitions for `days` days from `first` (UTC) that do not exist yet.
CREATE FUNCTION core.make_event_log_partitions(first date, days integer) RETURNS void
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
                'CREATE TABLE IF NOT EXISTS core.%I PARTITION OF core.event_log FOR VALUES FROM (%L) TO (%L)',
                name, day || ' 00:00:00+00', (day + 1) || ' 00:00:00+00');
        END IF;
    END LOOP;
END
$$;

-- How far each shard has been relayed to the event bus.
CREATE TABLE core.relay_checkpoint (
    shard      integer PRIMARY KEY REFERENCES core.shard_head,
    log_offset bigint NOT NULL CHECK (log_offset >= 0),
    updated_at timestamptz NOT NULL DEFAULT now()
);
