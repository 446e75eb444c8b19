-- Relays lease shards, and an event that the broker refuses blocks only its own vehicle.

-- The relays that run, by an id that each start makes anew.
CREATE TABLE core.relay (
    relay       uuid PRIMARY KEY,
    instance    text NOT NULL,
    started_at  timestamptz NOT NULL DEFAULT now(),
    lease_until timestamptz NOT NULL
);

-- Who relays a shard. The epoch is raised each time that the shard is taken, and every move of the
-- checkpoint names it: so a relay that has lost its shard moves nothing.
ALTER TABLE core.relay_checkpoint
    ADD COLUMN owner       uuid,
    ADD COLUMN epoch       bigint NOT NULL DEFAULT 0,
    ADD COLUMN lease_until timestamptz,
    ADD CHECK ((owner IS NULL) = (lease_until IS NULL));

-- Events behind the checkpoint that the broker has not taken: those that it refused, and the later
-- ones of the same vehicle, which wait for them. Each is a full copy: the log may be past them.
CREATE TABLE core.event_blocked (
    shard           integer NOT NULL,
    log_offset      bigint NOT NULL,
    -- What waits for one another: workspace and subject. An event without a subject waits for none.
    subject_key     text NOT NULL,
    workspace       text NOT NULL,
    event_type      text NOT NULL,
    subject         text,
    traceparent     text,
    logged_at       timestamptz NOT NULL,
    data            jsonb NOT NULL,
    blocked_at      timestamptz NOT NULL DEFAULT now(),
    -- How often the broker has refused it.
    attempts        integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    reason          text,
    -- Only of interest of the first of a subject.
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (shard, log_offset)
);

CREATE INDEX event_blocked_of_subject ON core.event_blocked (shard, subject_key, log_offset);

-- Events that were given up on, until they are redriven.
CREATE TABLE core.event_dead (
    shard       integer NOT NULL,
    log_offset  bigint NOT NULL,
    subject_key text NOT NULL,
    workspace   text NOT NULL,
    event_type  text NOT NULL,
    subject     text,
    traceparent text,
    logged_at   timestamptz NOT NULL,
    data        jsonb NOT NULL,
    blocked_at  timestamptz NOT NULL,
    attempts    integer NOT NULL,
    reason      text NOT NULL,
    died_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (shard, log_offset)
);

CREATE INDEX event_dead_of_workspace ON core.event_dead (workspace, shard, log_offset);
