-- Who reads which stream. Every lease is judged by the clock of this database.

CREATE SEQUENCE core.publisher_epoch;

CREATE TABLE core.publisher (
    instance    text PRIMARY KEY,
    -- Chosen by each start of the process. What an earlier one held is free.
    incarnation uuid NOT NULL,
    -- The one before: if it is heard of again, two processes go by one name.
    superseded  uuid,
    epoch       bigint NOT NULL DEFAULT nextval('core.publisher_epoch'),
    capacity    integer NOT NULL CHECK (capacity >= 0),
    draining    boolean NOT NULL,
    started_at  timestamptz NOT NULL DEFAULT now(),
    seen_at     timestamptz NOT NULL DEFAULT now(),
    -- Until when it is taken to be alive.
    lease_until timestamptz NOT NULL
);

CREATE TABLE core.stream (
    connection      uuid PRIMARY KEY REFERENCES core.connection,
    -- Grows with each grant; 0 before the first.
    epoch           bigint NOT NULL DEFAULT 0 CHECK (epoch >= 0),
    owner           text,
    lease_until     timestamptz,
    -- When the connection was last heard from before this epoch.
    heard_until     timestamptz,
    -- The owner before, until it has let go: it reads on until the new one is subscribed, or, where
    -- the provider allows one socket only, nobody else is granted the stream until it has closed.
    outgoing        text,
    outgoing_epoch  bigint,
    outgoing_until  timestamptz,
    -- Whether it has to close before anybody else is granted the stream.
    asked_back      boolean NOT NULL DEFAULT false,
    -- What the owner last said of it.
    report          jsonb,
    reported_at     timestamptz,
    CHECK ((owner IS NULL) = (lease_until IS NULL)),
    CHECK ((outgoing IS NULL) = (outgoing_epoch IS NULL)),
    CHECK ((outgoing IS NULL) = (outgoing_until IS NULL))
) WITH (fillfactor = 70);

CREATE INDEX stream_owner ON core.stream (owner);
CREATE INDEX stream_outgoing ON core.stream (outgoing) WHERE outgoing IS NOT NULL;

-- A connection's latest sessions; their ids sort by time. No column of it ever changes, so that the
-- updates of every batch touch no index.
CREATE INDEX session_of_connection ON core.session (connection, session);
